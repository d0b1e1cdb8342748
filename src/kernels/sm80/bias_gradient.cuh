// dbias = dS, summed in float32 over what the bias was broadcast over.
//
// Where each number belongs to one row, head and sequence, the block that forms it writes it. Where
// heads or sequences share rows, blocks add to a sum of the bias's own size. Where the rows share
// keys, each warp that has rows of its own sums up each head of each sequence, and
// backward_bias.cuh adds these sums: [row_warps][batch][heads_q][keys], always in the same order.
#pragma once

#include "sm80/backward_shapes.cuh"

namespace fa::sm80 {

enum class BiasGradient { none, written, summed, of_columns };
constexpr BiasGradient bias_gradient = c::dbias == Number::none ? BiasGradient::none
                                       : !c::bias_per_row       ? BiasGradient::of_columns
                                       : c::bias_shared         ? BiasGradient::summed
                                                                : BiasGradient::written;
constexpr int row_warps = c::rows / ScoreGrid::warp_rows;

/// Of one head of a sequence.
struct BiasSlot {
  int sequence, head;
  int rows, keys;  ///< that count
};

__device__ inline float* column_sum(const kernel::BackwardParams& p, int row_warp, int sequence,
                                    int head) {
  const long long slot =
      (static_cast<long long>(row_warp) * p.forward.batch + sequence) * p.forward.heads_q.value +
      head;
  return p.dbias_sum + slot * p.forward.keys.seqlen;
}

/// dS of one tile, as a warp has it: fragments of its rows and keys from these on.
__device__ inline void add_bias_gradient(
    const kernel::BackwardParams& p, const BiasSlot& slot,
    const float (&ds)[ScoreGrid::m_tiles][ScoreGrid::n_tiles][4], float scale, int row0, int key0,
    int warp, int lane) {
#pragma unroll
  for (int n = 0; n < ScoreGrid::n_tiles; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int key = key0 + 8 * n + lane % 4 * 2 + e;
      float column = 0;
#pragma unroll
      for (int m = 0; m < ScoreGrid::m_tiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = row0 + 16 * m + 8 * h + lane / 4;
          const float x = ds[m][n][2 * h + e] * scale;
          const bool counts = row < slot.rows && key < slot.keys;
          if constexpr (bias_gradient == BiasGradient::of_columns) {
            column += x;  // rows and keys that do not count have 0
          } else if constexpr (bias_gradient == BiasGradient::summed) {
            const int batch = slot.sequence % p.bias_batches, head = slot.head % p.bias_heads;
            const long long at =
                (static_cast<long long>(batch) * p.bias_heads + head) * p.forward.rows.seqlen + row;
            if (counts) ptx::add_global(p.dbias_sum + at * p.forward.keys.seqlen + key, x);
          } else if (counts) {
            Format<c::dbias>::store(
                p.dbias.data,
                slot.sequence * p.dbias.batch + slot.head * p.dbias.head + row * p.dbias.row + key,
                x);
          }
        }
      }
      if constexpr (bias_gradient == BiasGradient::of_columns) {
#pragma unroll
        for (int step = 4; step < 32; step *= 2) column += __shfl_xor_sync(~0u, column, step);
        // Nobody else adds to it, so that the order of its parts is this warp's.
        float* sum =
            column_sum(p, ScoreGrid::row(warp) / ScoreGrid::warp_rows, slot.sequence, slot.head);
        if (lane / 4 == 0 && key < slot.keys) ptx::add_global(sum + key, column);
      }
    }
  }
}

}  // namespace fa::sm80
