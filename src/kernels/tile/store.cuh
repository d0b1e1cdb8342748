// Results on their way to global memory, by way of shared memory, so that it sees whole rows.
#pragma once

#include "tile/copy.cuh"
#include "tile/product.cuh"

namespace fa::tile {

/// A fragment as as_left gives it, into a warp's part of Tile.
template <typename Tile, int slices, int m_tiles>
__device__ void put_left(const Part<Tile>& part, const KeptSlices<slices, m_tiles>& a, int lane) {
#if __CUDA_ARCH__ >= 900
  const LaneAddress<Tile> at = rows_then_columns(part, lane);
#pragma unroll
  for (int i = 0; i < slices; ++i) {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) ptx::stmatrix(at.at(0, 16 * m, 16 * i), a.slice[i][m]);
  }
#else
#pragma unroll
  for (int n = 0; n < 2 * slices; ++n) {
    const u32 at = (part.tile + Tile::offset(lane / 4, n) + lane % 4 * 4) ^ part.chunk;
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        ptx::store_shared(at + (16 * m + 8 * h) * Tile::row_bytes,
                          a.slice[n / 2][m][n % 2 * 2 + h]);
      }
    }
  }
#endif
}

/// The fragment x of a warp's rows, times `scale` and rounded to Element, into rows from `to` on;
/// rows from `count` on do not exist. The warp's rows of Tile, `tile` in shared memory, are
/// overwritten.
template <typename Element, typename Tile, int columns, int alignment, int m_tiles, int n_tiles>
__device__ void store_rows(u32 tile, const float (&x)[m_tiles][n_tiles][4], int lane, char* to,
                           long long stride, int count, float scale = 1) {
  put_left(Part<Tile>(tile, 0, 0), as_left<Element>(x, scale), lane);
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

/// Rows of a whole Tile, by the block's threads, into rows from `to` on; rows from `count` on do
/// not exist.
template <typename Tile, int rows, int columns, int threads, int alignment>
__device__ void write_rows(u32 tile, char* to, long long stride, int count) {
  constexpr int chunks = columns / 8;
  for (int i = threadIdx.x; i < rows * chunks; i += threads) {
    const int row = i / chunks, chunk = i % chunks;
    if (row >= count) break;
    store_chunk<alignment>(to + row * stride + 16 * chunk,
                           ptx::load_shared(tile + Tile::offset(row, chunk)));
  }
}

}  // namespace fa::tile
