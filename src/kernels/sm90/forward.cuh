// The forward pass on Hopper, Algorithm 1 of FlashAttention-2 (Dao 2023, arXiv:2307.08691) with the
// copy engine (TMA) and the tensor cores of warp groups (wgmma). docs/kernels/sm90-forward.md walks
// through it.
//
// A block stays on its multiprocessor and takes tile after tile: 64 query rows of one head for each
// of its groups of four warps. One more warp loads. The groups share K and V and take turns, so
// that one exponentiates while another multiplies.
#pragma once

#include "ptx/dependent.cuh"
#include "sm90/forward_group.cuh"
#include "sm90/forward_loader.cuh"

namespace fa::sm90 {

template <class C>
struct Forward {
  using Params = kernel::TiledForwardParams;
  using Shapes = ForwardShapes<C>;

  static __device__ void run(const Params& p) {
    const u32 shared = ptx::shared_address(ptx::shared_memory());
    const int warp = uniform(static_cast<int>(threadIdx.x / 32));
    if (warp == 0 && ptx::elect()) {
      // No map is made of tensors without keys, nor of pages that no copy brings.
      const kernel::Lengths& keys = p.forward.keys;
      if (C::alignment == 16 && (C::packed_k ? keys.tokens : keys.seqlen) > 0) {
        ptx::prefetch_map(&p.q);
        if constexpr (!C::paged || C::page_rows > 0) {
          ptx::prefetch_map(&p.k);
          ptx::prefetch_map(&p.v);
        }
      }
      ForwardPipes<C>(shared).init();
      ptx::mbarrier_init(shared + Shapes::landed, 1);
      ptx::fence_mbarrier_init();
    }
    if constexpr (C::shares) ptx::let_dependents_begin();
    __syncthreads();
    if (warp < 4) {
      ptx::give_registers<C::loader_registers>();
      if (warp == 0) ForwardLoader<C>(p, shared).run();
    } else {
      ptx::take_registers<C::group_registers>();
      ForwardGroup<C>(p, shared, warp).run();
    }
  }
};

}  // namespace fa::sm90
