// A tile of 16-bit elements in shared memory, swizzled so that neither ldmatrix nor rows of 16-byte
// chunks meet a bank twice.
#pragma once

#include "ptx/shared.cuh"

namespace fa::tile {

using u32 = unsigned;

constexpr int widest_panel(int columns) {
  return columns % 64 == 0 ? 64 : columns % 32 == 0 ? 32 : 16;
}

/// rows x columns (a multiple of 16), in panels of 64, 32 or 16 columns: 128 bytes hold 1, 2 or 4
/// rows of a panel, and the chunks of eight consecutive rows are permuted over all 32 banks.
template <int rows, int columns, int panel_ = widest_panel(columns)>
struct SharedTile {
  static constexpr int panel = panel_;
  static_assert(columns % panel == 0 && panel % 16 == 0 && rows % 8 == 0);
  static constexpr int chunks = columns / 8;  ///< of 8 elements, 16 bytes, in a row
  static constexpr int panel_chunks = panel / 8;
  static constexpr int row_bytes = 2 * panel;
  static constexpr int panel_bytes = rows * row_bytes;
  static constexpr int bytes = 2 * rows * columns;

  static constexpr __device__ int swizzle(int row) { return row / (64 / panel) % panel_chunks; }
  static constexpr __device__ u32 offset(int row, int chunk) {
    return chunk / panel_chunks * panel_bytes + row * row_bytes +
           ((chunk % panel_chunks) ^ swizzle(row)) * 16;
  }
};

/// Where one lane reads its 16 bytes of a 16x16 block for ldmatrix. The block's place is known to
/// the compiler: an XOR of a constant and an immediate offset.
template <typename Tile>
struct LaneAddress {
  u32 row_address;
  u32 chunk;  ///< of the first block, swizzled, in bytes

  __device__ LaneAddress(u32 tile, int lane_row, int lane_chunk)
      : row_address(tile + lane_row * Tile::row_bytes),
        chunk((lane_chunk ^ Tile::swizzle(lane_row)) * 16) {}

  /// `row` a multiple of 16, `column` too.
  __device__ u32 at(u32 tile_offset, int row, int column) const {
    const int first = column / 8;
    return row_address + (chunk ^ (first % Tile::panel_chunks * 16)) + tile_offset +
           first / Tile::panel_chunks * Tile::panel_bytes + row * Tile::row_bytes;
  }
};

/// Operand A (16 rows x 16 columns), or B of a tile stored [k][n] when read by ldmatrix_trans.
template <typename Tile>
__device__ LaneAddress<Tile> rows_then_columns(u32 tile, int lane) {
  return {tile, lane % 16, lane / 16};
}

/// Operand B of a tile stored [n][k]: two n-tiles of 8, their k halves side by side.
template <typename Tile>
__device__ LaneAddress<Tile> columns_then_rows(u32 tile, int lane) {
  return {tile, lane % 8 + lane / 16 * 8, lane / 8 % 2};
}

}  // namespace fa::tile
