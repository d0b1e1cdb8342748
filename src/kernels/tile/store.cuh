// Results on their way to global memory, by way of shared memory, so that it sees whole rows.
#pragma once

#include "tile/copy.cuh"

namespace fa::tile {

/// The fragment x of a warp's rows, rounded to Element, into rows from `to` on; rows from `count`
/// on do not exist. The warp's rows of Tile, `tile` in shared memory, are overwritten.
template <typename Element, typename Tile, int columns, int alignment, int m_tiles, int n_tiles>
__device__ void store_rows(u32 tile, const float (&x)[m_tiles][n_tiles][4], int lane, char* to,
                           long long stride, int count) {
#pragma unroll
  for (int n = 0; n < n_tiles; ++n) {
    const u32 at = tile + Tile::offset(lane / 4, n) + lane % 4 * 4;
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        ptx::store_shared(at + (16 * m + 8 * h) * Tile::row_bytes,
                          Element::pack(x[m][n][2 * h], x[m][n][2 * h + 1]));
      }
    }
  }
  __syncwarp();
  constexpr int row_lanes = Tile::panel_chunks, pass_rows = 32 / row_lanes;
  const int chunk = lane % row_lanes;
  to += lane / row_lanes * stride + 16 * chunk;
#pragma unroll
  for (int pass = 0; pass < 16 * m_tiles; pass += pass_rows, to += pass_rows * stride) {
    const int row = pass + lane / row_lanes;
    if (row >= count) break;
#pragma unroll
    for (int panel = 0; panel < Tile::chunks; panel += row_lanes) {
      if (panel + chunk < columns / 8) {
        store_chunk<alignment>(to + 16 * panel,
                               ptx::load_shared(tile + Tile::offset(row, panel + chunk)));
      }
    }
  }
}

}  // namespace fa::tile
