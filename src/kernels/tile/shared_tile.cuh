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
/// rows of a panel, and the chunks of eight consecutive rows are permuted over all 32 banks. Of
/// narrow panels in pairs the second has its rows swapped two by two, so that what a row has in
/// both lies in unlike banks, too: cp.async writes what comes of one line of memory at a time.
template <int rows, int columns, int panel_ = widest_panel(columns)>
struct SharedTile {
  static constexpr int panel = panel_;
  static_assert(columns % panel == 0 && panel % 16 == 0 && rows % 8 == 0);
  static constexpr int chunks = columns / 8;  ///< of 8 elements, 16 bytes, in a row
  static constexpr int panel_chunks = panel / 8;
  static constexpr int row_bytes = 2 * panel;
  static constexpr int panel_bytes = rows * row_bytes;
  static constexpr int bytes = 2 * rows * columns;
  static constexpr int panels = columns / panel;
  static constexpr bool pairs = panel < 64 && panels % 2 == 0;

  static constexpr __device__ int swizzle(int row) { return row / (64 / panel) % panel_chunks; }
  /// The change that a panel makes to a row's place, by XOR.
  static constexpr __device__ u32 swap(int in_panel) {
    return pairs ? in_panel % 2 * row_bytes : 0;
  }
  static constexpr __device__ u32 offset(int row, int chunk) {
    const int in_panel = chunk / panel_chunks;
    return in_panel * panel_bytes + ((row * row_bytes) ^ swap(in_panel)) +
           ((chunk % panel_chunks) ^ swizzle(row)) * 16;
  }
};

/// The address at which a lane reads its 16 bytes of a 16x16 block for ldmatrix. The block's place
/// is known to the compiler: an XOR of a constant and an immediate offset.
template <typename Tile>
struct LaneAddress {
  u32 line_address;
  u32 chunk;  ///< of the first block, swizzled, in the line of 128 bytes

  __device__ LaneAddress(u32 tile, int lane_row, int lane_chunk)
      : line_address(tile + lane_row * Tile::row_bytes / 128 * 128),
        chunk(lane_row * Tile::row_bytes % 128 + (lane_chunk ^ Tile::swizzle(lane_row)) * 16) {}

  /// `row` a multiple of 16, `column` too.
  __device__ u32 at(u32 tile_offset, int row, int column) const {
    const int first = column / 8, in_panel = first / Tile::panel_chunks;
    return line_address + (chunk ^ (first % Tile::panel_chunks * 16) ^ Tile::swap(in_panel)) +
           tile_offset + in_panel * Tile::panel_bytes + row * Tile::row_bytes;
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
