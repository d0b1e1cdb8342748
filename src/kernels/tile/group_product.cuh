// Products of a warp group on tiles in shared memory (wgmma). They are asynchronous:
// ptx/wgmma.cuh says what fences and waits they need.
#pragma once

#include "ptx/wgmma.cuh"
#include "tile/panels.cuh"
#include "tile/product.cuh"

namespace fa::tile {

/// C = A B^T: A's 64 rows and B's rows lie along k. Begins a group of products and closes it.
template <kernel::Number number, int slices, typename A, typename B, int n_tiles>
__device__ void begin_product(float (&c)[n_tiles][4], const PanelOperand<A, kernel::Major::k>& a,
                              u32 a_offset, const PanelOperand<B, kernel::Major::k>& b,
                              u32 b_offset) {
#pragma unroll
  for (int slice = 0; slice < slices; ++slice) {
    ptx::wgmma<number, kernel::Major::k, kernel::Major::k>(c, a.at(a_offset, slice),
                                                           b.at(b_offset, slice), slice > 0);
  }
  ptx::wgmma_commit();
}

/// C += A B of an A in registers; a row of B is one of k.
template <kernel::Number number, int slices, typename B, int n_tiles>
__device__ void begin_product(float (&c)[n_tiles][4], const KeptSlices<slices, 1>& a,
                              const PanelOperand<B, kernel::Major::mn>& b, u32 b_offset) {
#pragma unroll
  for (int slice = 0; slice < slices; ++slice) {
    ptx::wgmma<number, kernel::Major::mn>(c, a.slice[slice][0], b.at(b_offset, slice), true);
  }
  ptx::wgmma_commit();
}

}  // namespace fa::tile
