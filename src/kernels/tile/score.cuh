// The one place where a score is formed from the product q.k: scale, softcap, ALiBi and bias, then
// the mask; and dropout's decision on the probability. All in powers of 2: scores times log2(e).
#pragma once

#include "common/mask.h"
#include "common/params.h"
#include "common/philox.h"
#include "ptx/math.cuh"
#include "tile/number.cuh"
#include "tile/place.cuh"

namespace fa::tile {

using ptx::log2_e;
using ptx::minus_infinity;

/// Which terms a kernel has, at compile time.
template <Number element_, bool softcap_, bool alibi_, Number bias_, bool scaled_>
struct ScoreTerms {
  static constexpr Number element = element_;
  static constexpr bool softcap = softcap_;
  static constexpr bool alibi = alibi_;
  static constexpr Number bias = bias_;
  /// Without terms and with a positive scale the product itself is the score, and the scale goes
  /// into the exponent's multiply-add.
  static constexpr bool none = !softcap && !alibi && bias == Number::none && !scaled_;
  /// Likewise the cap, where nothing is added to the capped score.
  static constexpr bool only_softcap = softcap && !alibi && bias == Number::none;
};

/// Scores of one head of a sequence.
template <typename Terms>
struct Score {
  float scale;
  float cap;
  float slope;
  const void* bias;
  long long bias_offset, bias_row;
  int rows, keys;  ///< that count
  int shift;       ///< the diagonal key of row i is i + shift

  __device__ Score(const kernel::ForwardParams& p, const Place& place, int k_len)
      : scale(p.scale),
        cap(p.softcap),
        rows(place.rows.length),
        keys(k_len),
        shift(k_len - place.rows.length) {
    if constexpr (Terms::alibi) {
      slope = 0;
      if (rows > 0) {  // tokens behind the last sequence have none
        slope =
            log2_e * static_cast<const float*>(
                         p.alibi.data)[place.sequence * p.alibi.batch + place.head * p.alibi.head];
      }
    }
    if constexpr (Terms::bias != Number::none) {
      bias = p.bias.data;
      bias_offset = place.sequence * p.bias.batch + place.head * p.bias.head;
      bias_row = p.bias.row;
    }
  }

  __device__ float operator()(float s, int row, int key) const {
    return with_terms(bounded(s), row, key);
  }

  /// The product, scaled; with a softcap its tanh, whose derivative is 1 - tanh^2.
  __device__ float bounded(float s) const {
    s *= scale;
    if constexpr (Terms::softcap) s = bounded_tanh(s);
    return s;
  }
  __device__ float with_terms(float s, int row, int key) const {
    if constexpr (Terms::softcap && !Terms::only_softcap) s *= cap;
    if constexpr (Terms::alibi) {
      s -= slope * fabsf(static_cast<float>(row + shift - key));
    }
    if constexpr (Terms::bias != Number::none) {
      if (row < rows && key < keys) {
        s += log2_e * Format<Terms::bias>::load(bias, bias_offset + row * bias_row + key);
      }
    }
    return s;
  }

 private:
  static __device__ float bounded_tanh(float x) {
    if constexpr (Format<Terms::element>::tanh_by_instruction) {
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

/// Keys that a row sees, for fragments that a mask cuts.
template <bool left, bool right>
__device__ mask::KeyRange visible_keys(const kernel::ForwardParams& p, long long row, int q_len,
                                       int k_len) {
  return mask::key_range(row, q_len, k_len, left ? p.window_left : -1, right ? p.window_right : -1);
}

/// Dropout of one head of a sequence: which elements of P are kept.
struct Dropout {
  philox::Stream stream;
  u32 threshold;

  __device__ Dropout(const kernel::ForwardParams& p, const Place& place) : threshold(p.threshold) {
    unsigned long long seed = p.seed, offset = p.offset;
    if (p.dropout_state != nullptr) {
      seed = static_cast<unsigned long long>(p.dropout_state[0]);
      offset = static_cast<unsigned long long>(p.dropout_state[1]);
    }
    stream = philox::stream(seed, offset,
                            static_cast<u32>(place.sequence * p.heads_q.value + place.head));
  }

  /// Calls drop(m, n, e) for what is dropped of a fragment [m][n][e] of rows and keys from these
  /// on, or `transposed` of keys and rows; what is kept is divided by 1 - p at the end.
  template <int m_tiles, int n_tiles, bool transposed = false, typename Drop>
  __device__ void apply(int row, int key, int lane, const Drop& drop) const {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int n = 0; n < n_tiles; n += 2) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int down = 16 * m + lane / 4, across = 8 * n + lane % 4 * 2 + e;
          u32 word[4];
          words(word, row + (transposed ? across : down), key + (transposed ? down : across));
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int of_row = i / 2, of_key = i % 2;  // 8 further on
            if (word[i] < threshold) {
              drop(m, n + (transposed ? of_row : of_key), (transposed ? of_key : of_row) * 2 + e);
            }
          }
        }
      }
    }
  }

 private:
  /// The four elements {row, row + 8} x {key, key + 8}, row and key without their bit 3, in the
  /// order of philox::word_index.
  __device__ void words(u32 (&word)[4], int row, int key) const {
    philox::words(word, stream, philox::block_index(static_cast<u32>(row)),
                  philox::block_index(static_cast<u32>(key)));
  }
};

}  // namespace fa::tile
