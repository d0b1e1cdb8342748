// Two blocks of a cluster exchange numbers by every way there is, and write what they got to global
// memory by every way out.
#pragma once

#include "ptx/bulk_copy.cuh"
#include "ptx/cluster.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/proxy.cuh"
#include "ptx/shared.cuh"
#include "ptx/tensor_copy.cuh"
#include "ptx/warp_group.cuh"
#include "toy/params.h"

namespace fa::toy {

/// All threads of a block of a cluster of two.
__device__ inline void exchange(const ExchangeParams& p, unsigned shared) {
  using namespace ptx;
  constexpr int bytes = 4 * exchange_numbers;
  const unsigned own = shared, come = shared + 8, read = shared + 16;  // mbarriers
  const unsigned box = shared + 1024, plain = box + bytes, box_there = plain + bytes,
                 four_there = box_there + bytes;
  const unsigned rank = cluster_rank(), peer = rank ^ 1;
  const int block = static_cast<int>(blockIdx.x);
  if (threadIdx.x == 0) {
    mbarrier_init(own, 1);
    mbarrier_init(come, 1);
    mbarrier_init(read, exchange_threads);
    fence_mbarrier_init();
  }
  cluster_arrive();
  cluster_wait();
  if (threadIdx.x < 32 && elect()) {
    mbarrier_arrive_expect(come, bytes + 16);
    mbarrier_arrive_expect(own, 2 * bytes);
    tensor_load(box, &p.in, {0, 0, 0, block}, own);
    bulk_load(plain, p.plain + block * exchange_numbers, bytes, own);
  }
  mbarrier_wait(own, 0);
  cluster_arrive();
  cluster_wait();
  if (threadIdx.x < 32 && elect()) {
    bulk_to_block(of_block(box_there, peer), box, bytes, of_block(come, peer));
    store_async(of_block(four_there, peer), load_shared(plain), of_block(come, peer));
  }
  mbarrier_wait_cluster(come, 0);
  const int first = block * exchange_numbers, thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < exchange_numbers; i += exchange_threads) {
    p.copied[first + i] = load_remote(of_block(plain + 4 * i, peer));
  }
  if (thread < 4) p.firsts[4 * block + thread] = load_float(four_there + 4 * thread);
  mbarrier_arrive_remote(of_block(read, peer));
  mbarrier_wait_cluster(read, 0);
  if (threadIdx.x < 32 && elect()) {
    bulk_add(p.sums + first, box_there, bytes);
    tensor_add(&p.added, {0, 0, 0, block}, box_there);
    bulk_commit();
    bulk_wait<0>();
  }
  cluster_arrive();
  cluster_wait();
}

}  // namespace fa::toy

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(fa::toy::exchange_threads)
    fa_toy_exchange(const __grid_constant__ fa::toy::ExchangeParams p) {
  fa::toy::exchange(p, fa::ptx::shared_address(fa::ptx::shared_memory()));
}
