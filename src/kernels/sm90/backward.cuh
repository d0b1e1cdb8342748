// The backward pass on Hopper, Algorithm 2 of FlashAttention-2 (Dao 2023, arXiv:2307.08691) with
// the copy engine (TMA) and the tensor cores of warp groups (wgmma). docs/kernels/sm90-backward.md
// walks through it.
//
// A block stays on its multiprocessor and takes tile after tile: 128 keys of one key head, 64 for
// each of its two groups of four warps, which keep dK and dV in registers. One more warp loads,
// two add dQ to its sums, and one may set those to 0 ahead of them. The block walks over the query
// rows that see the keys, of all query heads that share them, or of part of these. dQ of the rows
// is summed in float32 in global memory, since other blocks add to it; pass/prepare.cuh comes
// before, pass/finish.cuh after.
#pragma once

#include "sm90/backward_adder.cuh"
#include "sm90/backward_group.cuh"
#include "sm90/backward_loader.cuh"
#include "sm90/dout_loader.cuh"

namespace fa::sm90 {

template <class C>
struct Backward {
  using Params = kernel::TiledBackwardParams;
  using Shapes = BackwardShapes<C>;

  static __device__ __forceinline__ void run(const Params& p) {
    const u32 shared = ptx::shared_address(ptx::shared_memory());
    const int warp = uniform(static_cast<int>(threadIdx.x / 32));
    if (warp == 0 && ptx::elect()) {
      // No map is made of tensors without rows.
      const kernel::Lengths& rows = p.backward.rows;
      if (C::alignment == 16 && (C::packed_q ? rows.tokens : rows.seqlen) > 0) {
        ptx::prefetch_map(&p.q);
        ptx::prefetch_map(&p.k);
        ptx::prefetch_map(&p.v);
        ptx::prefetch_map(&p.dout);
      }
      BackwardPipes<C>(shared).init();
      // A group's four warps fill a pipe of sums, and its adder empties it.
      for (int i = 0; i < Shapes::groups; ++i) Shapes::sums_of(shared, i).init(1, 4);
      ptx::mbarrier_init(shared + Shapes::landed, 1);
      ptx::mbarrier_init(shared + Shapes::dout_landed, 1);
      ptx::mbarrier_init(shared + Shapes::gradients_there, 4 * Shapes::groups);
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (warp < 4) {
      ptx::give_registers<Shapes::loader_registers>();
      if (warp == 0) BackwardLoader<C>(p, shared).run();
      if (warp == 1 || warp == 2) BackwardAdder<C>(p.backward, shared, warp - 1).run();
      if (Shapes::two_loaders && warp == 3) {
        DoutLoader<C, Shapes, BackwardPipes<C>>(p, shared).run();
      }
      if (C::clears_sums && warp == 3) {
        SumClearer<C, typename Shapes::TilePipe>{p.backward, BackwardPipes<C>(shared).tiles}.run();
      }
    } else {
      ptx::take_registers<Shapes::group_registers>();
      BackwardGroup<C>(p.backward, shared, warp - 4).run();
    }
  }
};

}  // namespace fa::sm90
