// Products of tiles in shared memory, shared out between a block's warps as a grid.
#pragma once

#include "ptx/shared.cuh"
#include "tile/shared_tile.cuh"

namespace fa::tile {

/// How `warps` warps share a product of `rows` x `columns`: `column_warps` of them side by side.
template <int warps, int rows, int columns, int column_warps>
struct WarpGrid {
  static constexpr int warp_rows = rows * column_warps / warps;
  static constexpr int warp_columns = columns / column_warps;
  static constexpr int m_tiles = warp_rows / 16;
  static constexpr int n_tiles = warp_columns / 8;
  static_assert(warp_rows % 16 == 0 && warp_columns % 16 == 0);

  static __device__ int row(int warp) { return warp / column_warps * warp_rows; }
  static __device__ int column(int warp) { return warp % column_warps * warp_columns; }
};

/// The most warps side by side, so that each has whole panels of Tile, or an even part of one, and
/// at least 16 rows.
template <typename Tile, int warps, int rows, int columns>
constexpr int column_warps(int most) {
  for (int n = most; n > 1; n /= 2) {
    const int part = columns / n;
    const bool even = columns % (16 * n) == 0 &&
                      (part % Tile::panel == 0 || Tile::panel % part == 0) && warps % n == 0;
    if (even && rows * n % (16 * warps) == 0) return n;
  }
  return 1;
}

/// The beginning of a tile's part that has this first row and column: `row` a multiple of 8,
/// `column` of whole panels or an even part of one.
template <typename Tile>
struct Part {
  u32 tile;
  u32 chunk;  ///< in the panel, in bytes, to be added by XOR

  __device__ Part(u32 shared, int row, int column)
      : tile(shared + row * Tile::row_bytes + column / Tile::panel * Tile::panel_bytes),
        chunk((column % Tile::panel * 2) ^ Tile::swap(column / Tile::panel)) {}
};

/// Lanes' addresses for ldmatrix in a part of a tile.
template <typename Tile>
__device__ LaneAddress<Tile> rows_then_columns(const Part<Tile>& part, int lane) {
  LaneAddress<Tile> address = rows_then_columns<Tile>(part.tile, lane);
  address.chunk ^= part.chunk;
  return address;
}
template <typename Tile>
__device__ LaneAddress<Tile> columns_then_rows(const Part<Tile>& part, int lane) {
  LaneAddress<Tile> address = columns_then_rows<Tile>(part.tile, lane);
  address.chunk ^= part.chunk;
  return address;
}

/// How an operand lies in shared memory: [its rows or columns][k], or [k][them], which ldmatrix
/// transposes.
enum class Lies { along_k, across_k };

/// The first `kept` slices of 16 of k of an operand A, which a warp keeps in registers.
template <int kept, int m_tiles>
struct KeptSlices {
  u32 slice[kept == 0 ? 1 : kept][m_tiles][4];

  /// `a` lies along k.
  template <typename A>
  __device__ void load(const LaneAddress<A>& a, u32 offset) {
#pragma unroll
    for (int i = 0; i < kept; ++i) {
#pragma unroll
      for (int m = 0; m < m_tiles; ++m) ptx::ldmatrix(slice[i][m], a.at(offset, 16 * m, 16 * i));
    }
  }
};

/// C += A B for a slice of 16 of k, of B's columns from 8 * `first_n` on. B along k:
/// columns_then_rows, else rows_then_columns.
template <typename Element, Lies b_lies, int first_n, typename B, int m_tiles, int n_tiles>
__device__ void multiply_slice(float (&c)[m_tiles][n_tiles][4], const u32 (&left)[m_tiles][4],
                               const LaneAddress<B>& b, u32 b_offset, int slice) {
#pragma unroll
  for (int n = 0; n < n_tiles; n += 2) {
    u32 right[4];
    if constexpr (b_lies == Lies::along_k) {
      ptx::ldmatrix(right, b.at(b_offset, 8 * (first_n + n), 16 * slice));
    } else {
      ptx::ldmatrix_trans(right, b.at(b_offset, 16 * slice, 8 * (first_n + n)));
    }
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
      Element::mma(c[m][n], left[m], right[0], right[1]);
      Element::mma(c[m][n + 1], left[m], right[2], right[3]);
    }
  }
}

struct Nothing {
  __device__ void operator()(int) const {}
};

/// C += A B over `slices` slices of k, the first of which may be in registers. A along k: read
/// rows_then_columns, else columns_then_rows. `after`: called after each slice.
template <typename Element, Lies a_lies, Lies b_lies, int slices, int first_n = 0, typename A,
          typename B, int m_tiles, int n_tiles, int kept = 0, typename After = Nothing>
__device__ void multiply(float (&c)[m_tiles][n_tiles][4], const LaneAddress<A>& a, u32 a_offset,
                         const LaneAddress<B>& b, u32 b_offset,
                         const KeptSlices<kept, m_tiles>& in_registers = {},
                         const After& after = {}) {
#pragma unroll
  for (int slice = 0; slice < slices; ++slice) {
    if (slice < kept) {
      multiply_slice<Element, b_lies, first_n>(c, in_registers.slice[slice < kept ? slice : 0], b,
                                               b_offset, slice);
      continue;
    }
    u32 left[m_tiles][4];
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
      if constexpr (a_lies == Lies::along_k) {
        ptx::ldmatrix(left[m], a.at(a_offset, 16 * m, 16 * slice));
      } else {
        ptx::ldmatrix_trans(left[m], a.at(a_offset, 16 * slice, 16 * m));
      }
    }
    multiply_slice<Element, b_lies, first_n>(c, left, b, b_offset, slice);
    after(slice);
  }
}

/// C += A B of an A that is in registers as a whole.
template <typename Element, Lies b_lies, typename B, int m_tiles, int n_tiles, int slices>
__device__ void multiply(float (&c)[m_tiles][n_tiles][4], const KeptSlices<slices, m_tiles>& a,
                         const LaneAddress<B>& b, u32 b_offset) {
#pragma unroll
  for (int slice = 0; slice < slices; ++slice) {
    multiply_slice<Element, b_lies, 0>(c, a.slice[slice], b, b_offset, slice);
  }
}

/// A product's fragment [m][n], times `factor` and rounded to Element, as the operand A of the next
/// one: its columns are k.
template <typename Element, int m_tiles, int n_tiles>
__device__ KeptSlices<n_tiles / 2, m_tiles> as_left(const float (&x)[m_tiles][n_tiles][4],
                                                    float factor = 1) {
  KeptSlices<n_tiles / 2, m_tiles> a;
#pragma unroll
  for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        a.slice[n / 2][m][n % 2 * 2 + h] =
            Element::pack(factor * x[m][n][2 * h], factor * x[m][n][2 * h + 1]);
      }
    }
  }
  return a;
}

}  // namespace fa::tile
