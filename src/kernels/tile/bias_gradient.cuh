// dbias = dS, summed in float32 over what the bias was broadcast over.
//
// If each number belongs to one row, head and sequence, the block that forms it writes it. If heads
// or sequences share rows, blocks add to a sum of the bias's own size. If the rows share keys, each
// warp that has rows of its own sums up each head of each sequence, and
// pass/bias.cuh adds these sums: [row_warps][batch][heads_q][keys], always in the same order.
#pragma once

#include "ptx/reduce.cuh"
#include "tile/bias_sums.cuh"
#include "tile/fragment.cuh"

namespace fa::tile {

/// One head of a sequence, whose bias a block works on.
struct BiasSlot {
  int sequence, head;
  int rows, keys;  ///< that count
};

/// Adds the sums over a fragment's query rows; rows that do not count are 0. No other warp adds to
/// `sums`, so that the order of the additions is this warp's.
template <int m_tiles, int n_tiles>
__device__ void add_rows(float* sums, const float (&ds)[m_tiles][n_tiles][4], float scale, int key0,
                         int keys, int lane) {
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = 0;
#pragma unroll
      for (int n = 0; n < n_tiles; ++n) {
        sum += (ds[m][n][2 * h] + ds[m][n][2 * h + 1]) * scale;
      }
#pragma unroll
      for (int step = 1; step < 4; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
      const int key = key0 + fragment_row(m, h, lane);
      if (lane % 4 == 0 && key < keys) ptx::add_global(sums + key, sum);
    }
  }
}

/// Calls put(row, key, number) for what counts of a fragment of rows and keys from these on.
template <int m_tiles, int n_tiles, typename Put>
__device__ void put_each(const float (&ds)[m_tiles][n_tiles][4], const BiasSlot& slot, int row0,
                         int key0, int lane, const Put& put) {
#pragma unroll
  for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = row0 + fragment_column(n, e % 2, lane);
        const int key = key0 + fragment_row(m, e / 2, lane);
        if (row < slot.rows && key < slot.keys) put(row, key, ds[m][n][e]);
      }
    }
  }
}

/// Adds a warp's part, whose rows begin at `row0` and keys at `key0`. `scale`: the factor that dS
/// lacks.
template <class S>
__device__ void add_bias_gradient(const kernel::BackwardParams& p, const BiasSlot& slot,
                                  const typename S::Scores& ds, float scale, int row0, int key0,
                                  int warp, int lane) {
  using C = S::Config;
  using ScoreGrid = S::ScoreGrid;
  constexpr BiasGradient bias_gradient = bias_gradient_of<C>;
  if constexpr (bias_gradient == BiasGradient::of_columns) {
    const int row_warp = ScoreGrid::column(warp) / ScoreGrid::warp_columns;
    add_rows(column_sum(p, row_warp, slot.sequence, slot.head), ds, scale, key0, slot.keys, lane);
  } else if constexpr (bias_gradient == BiasGradient::summed) {
    const long long keys = p.keys.seqlen, rows = p.rows.seqlen;
    const long long head = slot.sequence % p.bias_batches * static_cast<long long>(p.bias_heads) +
                           slot.head % p.bias_heads;
    float* sum = p.dbias_sum + head * rows * keys;
    put_each(ds, slot, row0, key0, lane, [&](int row, int key, float x) {
      ptx::add_global(sum + row * keys + key, x * scale);
    });
  } else {
    put_each(ds, slot, row0, key0, lane, [&](int row, int key, float x) {
      Format<C::dbias>::store(
          p.dbias.data,
          slot.sequence * p.dbias.batch + slot.head * p.dbias.head + row * p.dbias.row + key,
          x * scale);
    });
  }
}

}  // namespace fa::tile
