// The backward pass on Hopper for wide heads: Algorithm 2 of FlashAttention-2 (Dao 2023,
// arXiv:2307.08691) by clusters of two blocks. docs/kernels/sm90-backward.md walks through it.
//
// A cluster takes tile after tile: 128 keys of one key head, 64 for each of its blocks. dK and dV
// of 64 keys with 256 columns fill the registers of two groups of four warps, so a block's groups
// have roles: one has P^T and dV, the other dS^T and dK. dQ needs all keys of the tile: the blocks
// send each other dS^T, and each makes half of dQ's columns.
#pragma once

#include "ptx/cluster.cuh"
#include "ptx/warp_group.cuh"
#include "sm90/dout_loader.cuh"
#include "sm90/wide_backward_keys.cuh"
#include "sm90/wide_backward_loader.cuh"
#include "sm90/wide_backward_values.cuh"
#include "sm90/wide_sum_watcher.cuh"

namespace fa::sm90 {

template <class C>
struct WideBackward {
  using Params = kernel::TiledBackwardParams;
  using Shapes = WideBackwardShapes<C>;

  static __device__ __forceinline__ void run(const Params& p) {
    const u32 shared = ptx::shared_address(ptx::shared_memory());
    const int warp = uniform(static_cast<int>(threadIdx.x / 32));
    const int rank = uniform(static_cast<int>(ptx::cluster_rank()));
    if (warp == 0 && ptx::elect()) {
      // No map is made of tensors without rows.
      const kernel::Lengths& rows = p.backward.rows;
      if (C::alignment == 16 && (C::packed_q ? rows.tokens : rows.seqlen) > 0) {
        ptx::prefetch_map(&p.q);
        ptx::prefetch_map(&p.k);
        ptx::prefetch_map(&p.k_panels);
        ptx::prefetch_map(&p.v);
        ptx::prefetch_map(&p.dout);
      }
      WidePipes<C>(shared).init();
      ptx::fence_mbarrier_init();
    }
    meet_cluster();
    // Each role's sums stand within its branch: else the compiler would not let products overlap.
    if (warp < 4) {
      ptx::give_registers<Shapes::loader_registers>();
      if (warp == 0) WideLoader<C>(p, shared, rank).run();
      if (warp == 1) DoutLoader<C, Shapes, WidePipes<C>>(p, shared, rank).run();
      if constexpr (C::clears_sums) {
        const typename Shapes::TilePipe tiles = WidePipes<C>(shared).tiles;
        if (warp == 2) SumClearer<C, typename Shapes::TilePipe, 2>{p.backward, tiles, rank}.run();
        if (warp == 3) WideSumWatcher<C>{p.backward, tiles, shared, rank}.run();
      }
    } else if (warp < 8) {
      ptx::take_registers<Shapes::group_registers>();
      WideValues<C>(p.backward, shared, rank, warp - 4).run();
    } else {
      ptx::take_registers<Shapes::group_registers>();
      WideKeys<C>(p.backward, shared, rank, warp - 8).run();
    }
    meet_cluster();  // the other block has sent and released all that it will
  }

  /// Waits for all threads of both blocks.
  static __device__ void meet_cluster() {
    __syncwarp();
    ptx::cluster_arrive();
    ptx::cluster_wait();
  }
};

}  // namespace fa::sm90
