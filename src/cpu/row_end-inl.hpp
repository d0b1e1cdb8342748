// The end of a row's softmax: its sum, maximum and sink give LSE and the factor of the output.
#if defined(FA_CPU_ROW_END_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_ROW_END_INL
#undef FA_CPU_ROW_END_INL
#else
#define FA_CPU_ROW_END_INL
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/number.hpp"
#include "hwy/highway.h"
#include "problem/problem.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

inline constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// The softmax of a row, from its sum of exp(s - maximum) and its sink, one more logit of the
/// denominator.
struct RowEnd {
  float top;
  float total;   ///< exp(LSE - top)
  float factor;  ///< turns the sum of exp(s - maximum) V into the output
  // mutant "lse": top + std::log(total) => top
  float lse() const { return top + std::log(total); }
};
inline RowEnd end_row(float maximum, double sum, float sink) {
  const float top = std::max(maximum, sink);
  if (top == minus_infinity && sum == 0) return {minus_infinity, 1, 0};
  if (sink == minus_infinity) return {top, static_cast<float>(sum), static_cast<float>(1 / sum)};
  // In float64, where the difference of two logits is exact.
  const double from_keys = std::exp(static_cast<double>(maximum) - top);
  const double total = sum * from_keys + std::exp(static_cast<double>(sink) - top);
  return {top, static_cast<float>(total), static_cast<float>(from_keys / total)};
}

inline float sink_of(const Call& call, int64_t head) {
  // mutant "sinks": !call.problem.score.sinks => true
  if (!call.problem.score.sinks) return minus_infinity;
  return load_number(call.problem.score.sinks_dtype, call.sinks.data,
                     call.sinks.offset(0, 0, head));
}

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
