// The shared memory of the backward kernel.
#pragma once

#include "sm80/backward_shapes.cuh"

namespace fa::sm80 {

/// Bytes from the beginning: K, V, then places for a step's Q, dO and statistics, then P and dS,
/// then the warps' parts of S and dP where several share a sum.
template <class S>
struct BackwardMemory {
  using C = S::Config;

  static constexpr int statistic_chunks = C::rows / 4;  ///< of 16 bytes, of LSE or of delta
  static constexpr int statistics_bytes = 2 * 16 * statistic_chunks;

  // In the place of a step, Q first.
  static constexpr int dout_at = S::QueryTile::bytes;
  static constexpr int lse_at = dout_at + S::DoutTile::bytes;
  static constexpr int delta_at = lse_at + 16 * statistic_chunks;
  static constexpr int stage_bytes = lse_at + statistics_bytes;

  static constexpr int value_at = S::KeyTile::bytes;
  static constexpr int stages_at = value_at + S::ValueTile::bytes;
  static constexpr int p_at = stages_at + C::stages * stage_bytes;
  static constexpr int ds_at = p_at + S::ScoreTile::bytes;
  static constexpr int sums_at = ds_at + S::ScoreTile::bytes;
  static constexpr int sums_bytes =
      8 * C::keys * C::rows * (C::sum_warps > 1 ? C::sum_warps : 0);  // of S and dP, in float32

  static_assert(2 * statistic_chunks <= S::threads);
  static_assert(C::shared_bytes == sums_at + sums_bytes);
  static_assert(C::stages == 1 || C::stages == 2);
};

}  // namespace fa::sm80
