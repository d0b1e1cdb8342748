// Products of a warp group on tiles in shared memory (wgmma). They are asynchronous:
// ptx/wgmma.cuh says what fences and waits they need.
#pragma once

#include "ptx/wgmma.cuh"
#include "tile/panels.cuh"
#include "tile/product.cuh"

namespace fa::tile {

/// C = A B^T, or C += A B^T where it `adds`: A's 64 rows and B's rows lie along k. Begins a group
/// of products and closes it.
template <kernel::Number number, int slices, bool adds = false, typename A, typename B, int n_tiles>
__device__ void begin_product(float (&c)[n_tiles][4], const PanelOperand<A, kernel::Major::k>& a,
                              u32 a_offset, const PanelOperand<B, kernel::Major::k>& b,
                              u32 b_offset) {
#pragma unroll
  for (int slice = 0; slice < slices; ++slice) {
    ptx::wgmma<number, kernel::Major::k, kernel::Major::k>(
        c, a.at(a_offset, slice), b.at(b_offset, slice), adds || slice > 0);
  }
  ptx::wgmma_commit();
}

/// C = A B, or C += A B where it `adds`: a row of A lies across k, and a row of B is one of k.
template <kernel::Number number, int slices, bool adds = false, typename A, typename B, int n_tiles>
__device__ void begin_product(float (&c)[n_tiles][4], const PanelOperand<A, kernel::Major::mn>& a,
                              u32 a_offset, const PanelOperand<B, kernel::Major::mn>& b,
                              u32 b_offset) {
#pragma unroll
  for (int slice = 0; slice < slices; ++slice) {
    ptx::wgmma<number, kernel::Major::mn, kernel::Major::mn>(
        c, a.at(a_offset, slice), b.at(b_offset, slice), adds || slice > 0);
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

/// How two warp groups share a product of `rows` x `columns`, 64 rows each: where there are no
/// more, both have all rows, and half of the columns. What WarpGrid says of a warp, of the groups'
/// eight.
template <int rows, int columns>
struct GroupGrid {
  static_assert(rows == 64 || rows == 128);
  static constexpr bool side_by_side = rows == 64;
  static constexpr int m_tiles = 1;
  static constexpr int warp_columns = side_by_side ? columns / 2 : columns;
  static constexpr int n_tiles = warp_columns / 8;
  static_assert(warp_columns % 16 == 0);

  static __device__ int row(int warp) { return (side_by_side ? warp % 4 : warp) * 16; }
  static __device__ int column(int warp) { return side_by_side ? warp / 4 * warp_columns : 0; }
};

}  // namespace fa::tile
