// What the kernels of a backward pass agree on: tiles, where a row's statistics lie, and how sums
// are shared out between warps.
#pragma once

#include "common/params.h"
#include "ptx/reduce.cuh"
#include "tile/number.cuh"
#include "tile/place.cuh"
#include "tile/product.cuh"

namespace fa::sm80 {

using namespace fa::tile;
namespace c = fa::config;

using Element = Format<c::element>;

constexpr int threads = 32 * c::warps;
constexpr int depth = c::depth;  ///< of Q K^T: head_dim, padded so that the warps can share it
constexpr int width = c::width;  ///< of V, likewise

/// Two warps share 96 columns, and four 192, as 48, which are not an even part of wider panels.
constexpr int panel_of(int columns) { return columns % 96 == 0 ? 16 : widest_panel(columns); }

using QueryTile = SharedTile<c::rows, depth, panel_of(depth)>;
using KeyTile = SharedTile<c::keys, depth, panel_of(depth)>;
using DoutTile = SharedTile<c::rows, width, panel_of(width)>;
using ValueTile = SharedTile<c::keys, width, panel_of(width)>;
using ScoreTile = SharedTile<c::keys, c::rows>;

/// Of S^T and dP^T: keys from above, rows side by side.
using ScoreGrid = WarpGrid<c::warps, c::keys, c::rows, c::row_warps>;
using QueryGrid = WarpGrid<c::warps, c::rows, depth,
                           column_warps<KeyTile, c::warps, c::rows, depth>(c::warps / 2)>;
using KeyGrid = WarpGrid<c::warps, c::keys, depth,
                         column_warps<QueryTile, c::warps, c::keys, depth>(c::column_warps)>;
using ValueGrid = WarpGrid<c::warps, c::keys, width,
                           column_warps<DoutTile, c::warps, c::keys, width>(c::column_warps)>;

/// Whether a warp's keys of a product over rows are those whose P and dS it forms, of some rows.
template <typename Grid>
constexpr bool keeps_rows = Grid::warp_rows == ScoreGrid::warp_rows;
/// Where the operand of such a product begins.
template <typename Grid>
__device__ int first_row_of(int warp) {
  return keeps_rows<Grid> ? ScoreGrid::column(warp) : 0;
}
/// Slices of 16 rows that it has from others.
template <typename Grid>
constexpr int other_slices = (c::rows - (keeps_rows<Grid> ? ScoreGrid::warp_columns : 0)) / 16;
static_assert(ScoreTile::panel == c::rows);  // so that others are an XOR away

/// dQ of a step is formed in parts of its columns, one after the other, for the registers.
constexpr int query_parts = QueryGrid::n_tiles % (2 * c::query_parts) == 0 &&
                                    (QueryGrid::n_tiles & (QueryGrid::n_tiles - 1)) == 0
                                ? c::query_parts
                                : 1;
constexpr int part_tiles = QueryGrid::n_tiles / query_parts;
struct QueryPart {
  float x[QueryGrid::m_tiles][part_tiles][4];
};

/// Where a sequence's rows, or keys, begin among a head's padded ones: with a tile of their own.
template <int tile, bool packed>
__device__ long long padded_begin(const kernel::Lengths& lengths, int sequence, Side side) {
  if constexpr (packed) {
    return (side.begin + static_cast<long long>(sequence) * tile) / tile * tile;
  } else {
    return sequence * ((static_cast<long long>(lengths.seqlen) + tile - 1) / tile * tile);
  }
}
__device__ inline long long padded_row_begin(const kernel::ForwardParams& f, int sequence,
                                             Side rows) {
  return padded_begin<c::rows, c::packed_q>(f.rows, sequence, rows);
}
__device__ inline long long padded_key_begin(const kernel::ForwardParams& f, int sequence,
                                             Side keys) {
  return padded_begin<c::keys, c::packed_k>(f.keys, sequence, keys);
}

/// A warp's part of a tile's sum. The sum is as many numbers as the tile has, warp by warp and part
/// by part of the columns.
template <typename Grid, int parts>
__device__ float* sum_of_warp(float* tile, int warp, int part) {
  return tile + (warp * parts + part) * (Grid::m_tiles * (Grid::n_tiles / parts) * 128);
}

/// For float16, of each sequence and head: the largest |dO|^2 and |dLSE| of query heads, and the
/// largest |V|^2 of key heads.
enum class Range { dout, dlse, values };
__device__ inline float* range_of(const kernel::BackwardParams& p, Range range, int sequence,
                                  int head) {
  const kernel::ForwardParams& f = p.forward;
  const long long query_heads = static_cast<long long>(f.batch) * f.heads_q.value;
  if (range == Range::values) {
    return p.ranges + 2 * query_heads +
           static_cast<long long>(sequence) * (f.heads_q.value / f.group) + head;
  }
  return p.ranges + (range == Range::dlse ? query_heads : 0) +
         static_cast<long long>(sequence) * f.heads_q.value + head;
}

/// The largest of what a block's threads have found, none of it negative; NaN is passed over.
__device__ inline void raise_range(float* range, float x) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  if (threadIdx.x % 32 == 0) ptx::max_global(range, x);
}

/// How many blocks have added to this tile of rows' dQ.
__device__ inline int* dq_turn_of(const kernel::BackwardParams& p, int head, long long padded_row) {
  return p.dq_turns + (head * p.padded_rows + padded_row) / c::rows;
}

}  // namespace fa::sm80
