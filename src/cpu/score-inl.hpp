// Scores from products: the one place of both passes that knows softcap, ALiBi, bias and masks.
// Also dropout's factors of a row.
#if defined(FA_CPU_SCORE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_SCORE_INL
#undef FA_CPU_SCORE_INL
#else
#define FA_CPU_SCORE_INL
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu/math-inl.hpp"
#include "cpu/rows-inl.hpp"
#include "hwy/highway.h"
#include "kernels/common/mask.h"
#include "kernels/common/philox.h"
#include "plan/cpu/plan.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Where the scale is multiplied in. A scale up to 1 goes to q, a larger one to the score after the
/// product, so that neither overflows while the score itself is finite. (For dQ and dK: to dS, or
/// to their final sums.) bfloat16 that is multiplied as it is takes the scale after the product.
struct Scale {
  Scale(double scale, Arithmetic arithmetic)
      : query(goes_to_query(scale, arithmetic) ? static_cast<float>(scale) : 1.0f),
        score(goes_to_query(scale, arithmetic) ? 1.0f : static_cast<float>(scale)) {}
  static bool goes_to_query(double scale, Arithmetic arithmetic) {
    return arithmetic == Arithmetic::widened && std::abs(scale) <= 1;
  }
  float query;
  float score;
};

/// One row of scores: query row i of query head h in a sequence.
class ScoreRow {
 public:
  ScoreRow(const Call& call, const Sequence& sequence, int64_t head, int64_t i)
      : call_(call),
        problem_(call.problem),
        diagonal_(i + sequence.k.len - sequence.q.len),
        keys_(mask::key_range(i, sequence.q.len, sequence.k.len, problem_.score.window_left,
                              problem_.score.window_right)),
        row_(i),
        head_(head),
        sequence_(sequence.index) {}

  /// Whether mask and bias leave the row a key.
  bool sees_a_key() const {
    if (!problem_.score.bias) return keys_.begin < keys_.end;
    const int64_t first = call_.bias.offset(sequence_, row_, head_);
    for (int64_t j = keys_.begin; j < keys_.end; ++j) {
      if (load_number(problem_.score.bias_dtype, call_.bias.data, first + j) !=
          -std::numeric_limits<float>::infinity()) {
        return true;
      }
    }
    return false;
  }

  /// Whether the score is more than a multiple of the product: then its slope varies.
  bool has_slope() const { return problem_.score.softcap > 0; }

  /// Turns s, the products of keys [j0, j0 + n), into scores; masked keys and those up to padded(n)
  /// become -inf. slope: gets the score's derivative by the scaled product, unless null (only where
  /// has_slope). line: scratch for a row of bias.
  HWY_ATTR HWY_INLINE void finish(const Scale& scale, int64_t j0, int64_t n, float* s, float* line,
                                  float* slope = nullptr) const {
    if (scale.score != 1) multiply(scale.score, n, s);
    if (problem_.score.softcap > 0) soften(n, s, slope);
    if (problem_.score.alibi) add_alibi(j0, n, s);
    // mutant "bias": problem_.score.bias => false
    if (problem_.score.bias) add_bias(j0, n, s, line);
    mask_out(j0, n, s);
  }

  /// Dropout's factors of keys [j0, j0 + n), j0 a multiple of 16: 0 or 1 / (1 - p).
  HWY_ATTR void keep(int64_t j0, int64_t n, float* factors) const;

 private:
  static HWY_ATTR HWY_INLINE void multiply(float factor, int64_t n, float* s) {
    const Floats d;
    for (int64_t j = 0; j < n; j += step(d)) {
      hn::Store(hn::Mul(hn::Load(d, s + j), hn::Set(d, factor)), d, s + j);
    }
  }

  HWY_ATTR HWY_INLINE void soften(int64_t n, float* s, float* slope) const {
    const Floats d;
    const auto limit = hn::Set(d, static_cast<float>(problem_.score.softcap));
    const auto one = hn::Set(d, 1.0f);
    for (int64_t j = 0; j < padded(n); j += step(d)) {  // dS is 0 times the derivative beyond n
      const auto t = tanh_of(d, hn::Div(hn::Load(d, s + j), limit));
      hn::Store(hn::Mul(t, limit), d, s + j);
      if (slope != nullptr) hn::Store(hn::Mul(hn::Sub(one, t), hn::Add(one, t)), d, slope + j);
    }
  }

  HWY_ATTR HWY_INLINE void add_alibi(int64_t j0, int64_t n, float* s) const {
    const Floats d;
    const auto slope = hn::Set(d, *call_.alibi.at<float>(sequence_, 0, head_));
    const auto ahead = hn::Iota(d, static_cast<float>(j0 - diagonal_));
    for (int64_t j = 0; j < n; j += step(d)) {
      const auto distance = hn::Abs(hn::Add(ahead, hn::Set(d, static_cast<float>(j))));
      hn::Store(hn::NegMulAdd(slope, distance, hn::Load(d, s + j)), d, s + j);
    }
  }

  HWY_ATTR HWY_INLINE void add_bias(int64_t j0, int64_t n, float* s, float* line) const {
    const Floats d;
    const DType dtype = problem_.score.bias_dtype;
    const int64_t first = call_.bias.offset(sequence_, row_, head_) + j0;
    load_row(dtype, call_.bias.data + first * bytes_of(dtype), n, 1.0f, line);
    for (int64_t j = 0; j < n; j += step(d)) {
      hn::Store(hn::Add(hn::Load(d, s + j), hn::Load(d, line + j)), d, s + j);
    }
  }

  HWY_ATTR HWY_INLINE void mask_out(int64_t j0, int64_t n, float* s) const {
    constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
    for (int64_t j = 0; j < std::min<int64_t>(keys_.begin - j0, n); ++j) s[j] = minus_infinity;
    const int64_t end = std::clamp<int64_t>(keys_.end - j0, 0, n);
    for (int64_t j = end; j < padded(n); ++j) s[j] = minus_infinity;
  }

  template <class D>
  static HWY_INLINE int64_t step(D d) {
    return static_cast<int64_t>(hn::Lanes(d));
  }

  const Call& call_;
  const Problem& problem_;
  int64_t diagonal_;
  mask::KeyRange keys_;
  int64_t row_;
  int64_t head_;
  int64_t sequence_;
};

/// Philox on 64-bit lanes, one counter each: the wide product is one instruction there.
HWY_ATTR inline void ScoreRow::keep(int64_t j0, int64_t n, float* factors) const {
  namespace px = fa::philox;
  const hn::CappedTag<uint64_t, 8> d;
  const hn::Repartition<uint32_t, decltype(d)> du32;
  const uint64_t seed =
      call_.dropout_state != nullptr ? call_.dropout_state[0] : call_.dropout_seed;
  const uint64_t offset =
      call_.dropout_state != nullptr ? call_.dropout_state[1] : call_.dropout_offset;
  // mutant "dropout: sequence and head": sequence_ * problem_.q.heads + head_ => 0
  const px::Stream stream =
      px::stream(seed, offset, static_cast<uint32_t>(sequence_ * problem_.q.heads + head_));
  const auto product = [&](auto x, uint32_t multiplier) {
    return hn::MulEven(hn::BitCast(du32, x), hn::BitCast(du32, hn::Set(d, multiplier)));
  };
  // mutant "dropout: 1 / (1 - p)": 1 / (1 - problem_.dropout_p) => 1
  const float factor = static_cast<float>(1 / (1 - problem_.dropout_p));
  const uint32_t threshold = px::threshold(problem_.dropout_p);
  HWY_ALIGN uint64_t words[16];
  const auto row = hn::Set(d, px::block_index(static_cast<uint32_t>(row_)));
  const bool second = px::word_index(static_cast<uint32_t>(row_), 0) != 0;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t j = 0; j < n; j += 16) {
    const uint32_t first = px::block_index(static_cast<uint32_t>(j0 + j));
    for (int64_t c = 0; c < 8; c += lanes) {
      auto c0 = row;
      auto c1 = hn::Iota(d, first + static_cast<uint32_t>(c));
      auto c2 = hn::Set(d, stream.counter_2);
      auto c3 = hn::Set(d, stream.counter_3);
      uint32_t key_0 = stream.key_0;
      uint32_t key_1 = stream.key_1;
      for (int round = 0; round < px::rounds; ++round) {
        // The upper halves of the lanes hold leftovers; the products read the lower only.
        const auto p0 = product(c0, px::multiplier_0);
        const auto p1 = product(c2, px::multiplier_1);
        c0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p1), c1), hn::Set(d, key_0));
        c2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p0), c3), hn::Set(d, key_1));
        c1 = p1;
        c3 = p0;
        key_0 += px::weyl_0;
        key_1 += px::weyl_1;
      }
      hn::Store(second ? c2 : c0, d, words + c);
      hn::Store(second ? c3 : c1, d, words + 8 + c);
    }
    for (int64_t x = 0; x < 16; ++x) {
      // mutant "dropout: keep decision": static_cast<uint32_t>(words[x]) >= threshold => true
      factors[j + x] = static_cast<uint32_t>(words[x]) >= threshold ? factor : 0.0f;
    }
  }
}

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
