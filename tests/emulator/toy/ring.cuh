// A product C = A B on Hopper, as small as one can be that has all of its parts: a warp that loads
// tiles into a ring of stages, and two warp groups that multiply them. A test makes faults in it,
// one at a time, that the emulator must notice.
#pragma once

#include "common/descriptor.h"
#include "common/number.h"
#include "ptx/barrier.cuh"
#include "ptx/bulk_copy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/proxy.cuh"
#include "ptx/shared.cuh"
#include "ptx/tensor_copy.cuh"
#include "ptx/warp_group.cuh"
#include "ptx/wgmma.cuh"
#include "toy/params.h"

namespace fa::toy {

using u32 = unsigned;
using u64 = unsigned long long;
using kernel::Major;
using kernel::Swizzle;

enum class Fault {
  none,
  arrive_missing,         ///< a consumer's warp does not give its stages back
  empty_wait_missing,     ///< the producer loads into a stage that may still be read
  released_early,         ///< consumers give a stage back whose products are under way
  full_wait_missing,      ///< consumers multiply what may not have come
  parity_wrong,           ///< consumers wait for the phase before
  bytes_too_few,          ///< the producer expects half of what comes
  bytes_too_many,         ///< it expects twice as much
  product_wait_missing,   ///< sums are read whose products are under way
  product_fence_missing,  ///< no wgmma.fence before the first product
  proxy_fence_missing,    ///< C's tile is stored by threads and read by a copy
  group_barrier_missing,  ///< the copy of C's tile begins before all have stored
  store_wait_missing,     ///< the block ends before the copy has read C's tile
  init_fence_missing,     ///< copies may not see the barriers' beginning
  descriptor_wrong,       ///< B's two panels are taken for one
  lane_alone,             ///< a lane leaves its warp group
};

/// A place in the ring: which stage, and the parity of its turn.
struct Turn {
  int stage = 0;
  u32 parity = 0;

  __device__ void next() {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <Fault fault>
struct Ring {
  const RingParams& p;
  u32 shared;

  static constexpr __device__ bool has(Fault f) { return fault == f; }
  __device__ u32 full(int stage) const { return shared + 16 * stage; }
  __device__ u32 empty(int stage) const { return shared + 16 * stage + 8; }
  __device__ u32 a_tile(int stage) const { return shared + barrier_bytes + stage * stage_bytes; }
  __device__ u32 b_tile(int stage) const { return a_tile(stage) + a_bytes; }
  __device__ u32 c_tile(int group) const {
    return shared + barrier_bytes + stages * stage_bytes + group * c_boxes * c_box_bytes;
  }

  /// One thread.
  __device__ void make_barriers() const {
    for (int stage = 0; stage < stages; ++stage) {
      ptx::mbarrier_init(full(stage), 1);
      ptx::mbarrier_init(empty(stage), 4 * groups);  // one lane of each warp
    }
    if (!has(Fault::init_fence_missing)) ptx::fence_mbarrier_init();
  }

  /// One thread.
  __device__ void produce() const {
    constexpr int bytes = has(Fault::bytes_too_few)    ? stage_bytes / 2
                          : has(Fault::bytes_too_many) ? stage_bytes * 2
                                                       : stage_bytes;
    Turn turn;
    for (int i = 0; i < p.slices; ++i, turn.next()) {
      if (!has(Fault::empty_wait_missing)) ptx::mbarrier_wait(empty(turn.stage), turn.parity ^ 1);
      const u32 barrier = full(turn.stage);
      ptx::mbarrier_arrive_expect(barrier, bytes);
      ptx::tensor_load(a_tile(turn.stage), &p.a,
                       {i * slice, static_cast<int>(blockIdx.x) * tile_rows}, barrier);
      for (int c = 0; c < tile_columns / panel; ++c) {
        ptx::tensor_load(b_tile(turn.stage) + c * panel_bytes, &p.b, {c * panel, i * slice},
                         barrier);
      }
    }
  }

  __device__ void multiply_stage(float (&d)[tile_columns / 8][4], int group, int stage,
                                 bool first) const {
    constexpr u64 a_lies = kernel::descriptor_of(Swizzle::within_128, 0, 1024);
    constexpr u64 b_lies = kernel::descriptor_of(
        Swizzle::within_128, has(Fault::descriptor_wrong) ? 1024 : panel_bytes, 1024);
    const u64 a = kernel::descriptor_at(a_lies, a_tile(stage) + group * group_rows * 128);
    const u64 b = kernel::descriptor_at(b_lies, b_tile(stage));
#pragma unroll
    for (int k = 0; k < slice / 16; ++k) {  // 32 bytes of A's rows, 16 rows of B
      ptx::wgmma<kernel::Number::bfloat16, Major::k, Major::mn>(
          d, a + k * 32 / 16, b + k * 16 * 128 / 16, !first || k > 0);
    }
    ptx::wgmma_commit();
  }

  /// One warp group.
  __device__ void consume(int group) const {
    const int lane = threadIdx.x % 32;
    const bool gives_back = lane == 0 && !(has(Fault::arrive_missing) && threadIdx.x / 32 == 6);
    float d[tile_columns / 8][4];
    if (has(Fault::lane_alone) && threadIdx.x == 200) return;
    Turn turn;
    int before = 0;
    for (int i = 0; i < p.slices; ++i, turn.next()) {
      const u32 parity = has(Fault::parity_wrong) ? turn.parity ^ 1 : turn.parity;
      if (!has(Fault::full_wait_missing)) ptx::mbarrier_wait(full(turn.stage), parity);
      if (!has(Fault::product_fence_missing)) ptx::wgmma_fence();
      multiply_stage(d, group, turn.stage, i == 0);
      if (has(Fault::released_early) && gives_back) ptx::mbarrier_arrive(empty(turn.stage));
      // The products of the stage before are done; those of this one go on.
      ptx::wgmma_wait<1>();
      if (!has(Fault::released_early) && i > 0 && gives_back) ptx::mbarrier_arrive(empty(before));
      before = turn.stage;
    }
    if (!has(Fault::product_wait_missing)) ptx::wgmma_wait<0>(d);
    store(d, group);
  }

  /// One warp group: its rows of C through shared memory, which a copy takes from there.
  __device__ void store(const float (&d)[tile_columns / 8][4], int group) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
    for (int i = 0; i < tile_columns / 8; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = 16 * warp + lane / 4 + e / 2 * 8, column = i % 4 * 8 + lane % 4 * 2 + e % 2;
        const u32 address = c_tile(group) + i / 4 * c_box_bytes + row * 128 + column * 4;
        ptx::store_shared(kernel::swizzled(address, Swizzle::within_128), __float_as_uint(d[i][e]));
      }
    }
    if (!has(Fault::proxy_fence_missing)) ptx::fence_proxy_async();
    if (!has(Fault::group_barrier_missing)) ptx::barrier_sync<128>(1 + group);
    if (warp == 0 && ptx::elect()) {
      for (int box = 0; box < c_boxes; ++box) {
        ptx::tensor_store(&p.c,
                          {box * 32, static_cast<int>(blockIdx.x) * tile_rows + group * group_rows},
                          c_tile(group) + box * c_box_bytes);
      }
      ptx::bulk_commit();
      if (!has(Fault::store_wait_missing)) ptx::bulk_wait_read<0>();
    }
  }
};

/// All threads of a block. `shared`: shared_bytes at a multiple of 1024.
template <Fault fault>
__device__ void multiply_by_ring(const RingParams& p, u32 shared) {
  const Ring<fault> ring{p, shared};
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x / 32), 0);
  if (warp == 0 && ptx::elect()) ring.make_barriers();
  __syncthreads();
  if (warp < 4) {
    ptx::give_registers<24>();
    if (warp == 0 && ptx::elect()) ring.produce();
  } else {
    ptx::take_registers<240>();
    ring.consume(warp / 4 - 1);
  }
}

}  // namespace fa::toy
