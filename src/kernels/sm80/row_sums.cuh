// Products over the rows of a step, dV += P^T dO and dK += dS^T Q (lines 12 and 16 of Algorithm 2).
// Warps share P and dS through shared memory. A warp that forms P and dS of the keys whose sums it
// has, of some of the rows, keeps these in registers and begins with them, before the barrier.
#pragma once

#include "sm80/backward_shapes.cuh"

namespace fa::sm80 {

/// `Grid`: how warps share dV or dK.
template <class S, typename Grid>
struct RowSums {
  using ScoreGrid = S::ScoreGrid;
  using ScoreTile = S::ScoreTile;
  using Element = S::Element;
  static constexpr int rows = S::Config::rows;
  static_assert(ScoreTile::panel == rows);  // so that others are an XOR away

  /// Whether the warp's keys are those whose P and dS it forms.
  static constexpr bool keeps_rows = Grid::warp_rows == ScoreGrid::warp_rows;
  /// Slices of 16 rows that it has from others.
  static constexpr int other_slices = (rows - (keeps_rows ? ScoreGrid::warp_columns : 0)) / 16;

  /// The address at which the lane reads P or dS of the warp's keys.
  static __device__ LaneAddress<ScoreTile> left(u32 shared, int warp, int lane) {
    const int first_row = keeps_rows ? ScoreGrid::column(warp) : 0;
    return rows_then_columns(Part<ScoreTile>(shared, Grid::row(warp), first_row), lane);
  }

  /// C += A B over the rows whose A, P^T or dS^T, the warp has in registers.
  template <typename Tile, int n_tiles>
  static __device__ void add_own(float (&sum)[Grid::m_tiles][n_tiles][4], const S::Operand& own,
                                 const LaneAddress<Tile>& b, u32 b_offset, int warp) {
    if constexpr (keeps_rows) {
      multiply<Element, Lies::across_k>(sum, own, b,
                                        b_offset + ScoreGrid::column(warp) * Tile::row_bytes);
    }
  }

  /// After a barrier: over the other rows, whose A lies in shared memory. Calls after(slice).
  template <typename Tile, int n_tiles, typename After = Nothing>
  static __device__ void add_others(float (&sum)[Grid::m_tiles][n_tiles][4],
                                    const LaneAddress<ScoreTile>& a, u32 a_offset,
                                    const LaneAddress<Tile>& b, u32 b_offset, int warp,
                                    const After& after = {}) {
    constexpr KeptSlices<0, Grid::m_tiles> none = {};
    if constexpr (!keeps_rows) {
      multiply<Element, Lies::along_k, Lies::across_k, rows / 16>(sum, a, a_offset, b, b_offset,
                                                                  none, after);
    } else {
      constexpr int part = ScoreGrid::warp_columns;
#pragma unroll
      for (int other = part; other < rows; other += part) {
        LaneAddress<ScoreTile> left = a;
        left.chunk ^= 2 * other;
        const int row = ScoreGrid::column(warp) ^ other;
        multiply<Element, Lies::along_k, Lies::across_k, part / 16>(
            sum, left, a_offset, b, b_offset + row * Tile::row_bytes, none,
            [&](int slice) { after((other - part) / 16 + slice); });
      }
    }
  }
};

}  // namespace fa::sm80
