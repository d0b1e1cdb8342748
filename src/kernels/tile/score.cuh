// The one place where a score is formed from the product q.k: scale, softcap, ALiBi and bias. All
// in powers of 2: scores times log2(e).
#pragma once

#include "common/params.h"
#include "ptx/math.cuh"
#include "tile/number.cuh"
#include "tile/place.cuh"

namespace fa::tile {

using ptx::log2_e;
using ptx::minus_infinity;

/// An element of a fragment: of row + rows_on and key + keys_on. The compiler knows the latter two,
/// so that it forms what depends on the former once for many elements.
struct ScoreAt {
  int row, key;
  int rows_on, keys_on;
};

/// Scores of one head of a sequence; C says which terms they have.
template <class C>
struct Score {
  /// Without terms and with a positive scale the product itself is the score, and the scale goes
  /// into the exponent's multiply-add.
  static constexpr bool none =
      !C::softcap && !C::alibi && C::bias == Number::none && C::positive_scale;
  /// Where nothing is added to the capped score, the cap goes into that multiply-add, too.
  static constexpr bool only_softcap = C::softcap && !C::alibi && C::bias == Number::none;
  /// Where the bias alone is added, the score is one of exp, and log2(e) goes there.
  static constexpr bool only_bias = C::bias != Number::none && !C::softcap && !C::alibi;

  float scale;
  float cap;
  float slope_of_distance;  ///< ALiBi's
  const void* bias;
  long long bias_offset, bias_row;
  int rows, keys;  ///< that count
  int shift;       ///< the diagonal key of row i is i + shift

  __device__ Score(const kernel::ScoreArgs& p, const Place& place, int k_len)
      : scale(only_bias ? p.scale * (1 / log2_e) : p.scale),
        cap(p.softcap),
        rows(place.rows.length),
        keys(k_len),
        shift(k_len - place.rows.length) {
    if constexpr (C::alibi) {
      slope_of_distance = 0;
      if (rows > 0) {  // tokens behind the last sequence have none
        slope_of_distance =
            log2_e * static_cast<const float*>(
                         p.alibi.data)[place.sequence * p.alibi.batch + place.head * p.alibi.head];
      }
    }
    if constexpr (C::bias != Number::none) {
      bias = p.bias.data;
      bias_offset = place.sequence * p.bias.batch + place.head * p.bias.head;
      bias_row = p.bias.row;
    }
  }

  /// The factor that `value` leaves out: a multiplication that goes into the exponent's.
  static __device__ float factor(const kernel::ScoreArgs& p) {
    return none ? p.scale : only_softcap ? p.softcap : only_bias ? log2_e : 1;
  }
  /// Whether the score is more than a multiple of the product: then its slope varies.
  static constexpr bool has_slope = C::softcap;
  /// log2 of the steepest slope of some heads of a sequence: a softcap's is at most 1.
  static __device__ float slope_bits(const kernel::ScoreArgs&, int /*sequence*/, int /*first_head*/,
                                     int /*heads*/) {
    return 0;
  }

  /// The bias of a row and a key; 0 beyond the last ones.
  __device__ float bias_at(int row, int key) const {
    if constexpr (C::bias == Number::none) return 0;
    // mutant "CUDA: bias" of emulated: row * bias_row => 0
    const long long at = bias_offset + row * bias_row + key;
    return row < rows && key < keys ? Format<C::bias>::load(bias, at) : 0;
  }

  /// `added`: the bias. `slope`: the score's derivative by the product, without the scale, which
  /// the sums of gradients get at their end. Nothing where it is 1 (has_slope).
  __device__ float value(float product, const ScoreAt& at, float added, float& slope) const {
    if constexpr (only_bias) return fmaf(product, scale, added);
    float s = product * scale;
    if constexpr (C::softcap) {
      s = bounded_tanh(s);
      // mutant "CUDA: derivative of softcap" of emulated: 1 - s * s => 1.0f
      slope = 1 - s * s;
    }
    if constexpr (C::softcap && !only_softcap) s *= cap;
    if constexpr (C::alibi) {
      // A conversion for each element would take the special-function unit, as its exponential
      // does.
      const float distance =
          static_cast<float>(at.row + shift - at.key) + static_cast<float>(at.rows_on - at.keys_on);
      // mutant "CUDA: ALiBi" of emulated: slope_of_distance => 0.0f
      s -= slope_of_distance * fabsf(distance);
    }
    if constexpr (C::bias != Number::none) s = fmaf(added, log2_e, s);
    return s;
  }

 private:
  static __device__ float bounded_tanh(float x) {
    if constexpr (Format<C::element>::tanh_by_instruction) {
      return ptx::tanh_approx(x);
    } else {
      const float e = ptx::exp2(2 * log2_e * fabsf(x));
      const float large = copysignf(1 - 2 * ptx::reciprocal(1 + e), x);
      const float y = x * x;  // Taylor's series: 2^-24 of it at 0.3, where the formula cancels
      const float small =
          x * fmaf(y, fmaf(y, fmaf(y, fmaf(y, 62.f / 2835, -17.f / 315), 2.f / 15), -1.f / 3), 1);
      return fabsf(x) < 0.3f ? small : large;
    }
  }
};

}  // namespace fa::tile
