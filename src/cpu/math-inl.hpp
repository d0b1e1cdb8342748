// exp for the softmax, tanh for softcap, sums of short rows.
#if defined(FA_CPU_MATH_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_MATH_INL
#undef FA_CPU_MATH_INL
#else
#define FA_CPU_MATH_INL
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// The relative error of exp(x). full: 1.6e-7 + 8e-8 |x| (2e-8 |x| with fused multiply-adds), so
/// that no weight of a softmax, the largest of which is 1, is off by more than 1.7e-7.
/// for_bfloat16: 3e-6 + 8e-8 |x| with one instruction less, for results that are then rounded to
/// bfloat16.
enum class Exp : uint8_t { full, for_bfloat16 };

/// exp(x) for x <= 0 (or up to 80); 0 below -87.7, where float32 would be subnormal. NaN stays NaN.
///
/// x = n ln 2 + f with |f| <= ln(2) / 2, exp(f) by a polynomial of degree 5 or 4 with relative
/// error 9e-8 or 2.8e-6 (minimax by reweighted least squares, the coefficient of f^0 held at 1).
/// A degree more and ln 2 in two parts, within 1 ulp, cost 1 to 2% of a forward pass and changed
/// its error by 1%.
template <Exp exactness = Exp::full, class D, class V = hn::Vec<D>>
HWY_INLINE V exp_negative(D d, V x) {
  const hn::Rebind<int32_t, D> di;
  x = hn::Max(hn::Set(d, -88.0f), x);  // in this order the x86 instruction keeps a NaN of x
  // 1.5 * 2^23 leaves no bit for a fraction: the addition rounds, and the last bits are n + 127.
  const V shift = hn::Set(d, 12582912.0f + 127.0f);
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504f), shift);
  const V f = hn::NegMulAdd(hn::Sub(shifted, shift), hn::Set(d, 0.693147182f), x);
  V p;
  const auto next = [&](float coefficient) { p = hn::MulAdd(p, f, hn::Set(d, coefficient)); };
  if constexpr (exactness == Exp::full) {
    p = hn::Set(d, 0.008290305733680725f);
    next(0.0418979749083519f);
    next(0.1666763722896576f);
    next(0.4999915063381195f);
    next(0.9999997019767761f);
  } else {
    p = hn::Set(d, 0.04151381552219391f);
    next(0.16787497699260712f);
    next(0.5000301599502563f);
    next(0.9999668002128601f);
  }
  next(1.0f);
  // 2^n by its exponent bits; n = -127 gives the bits of 0.
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
}

/// tanh(x) within 2 ulp; NaN stays NaN. A softcap multiplies its error into the score, so it has to
/// be better than the 4 ulp of Highway's.
///
/// |x| < 0.625: x + x^3 p(x^2), relative error 4e-9 (fitted as above); beyond, (1 - e) / (1 + e)
/// with e = exp(-2 |x|) < 0.29, where the subtraction loses nothing.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V tanh_of(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  const V magnitude = hn::Abs(x);
  const V square = hn::Mul(x, x);
  V p = hn::Set(d, -0.005704978480935097f);
  p = hn::MulAdd(p, square, hn::Set(d, 0.020639078691601753f));
  p = hn::MulAdd(p, square, hn::Set(d, -0.05373971164226532f));
  p = hn::MulAdd(p, square, hn::Set(d, 0.13331441581249237f));
  p = hn::MulAdd(p, square, hn::Set(d, -0.3333328068256378f));
  const V small = hn::MulAdd(hn::Mul(p, square), x, x);
  const V e = exp_negative(d, hn::Mul(magnitude, hn::Set(d, -2.0f)));
  const V large = hn::CopySign(hn::Div(hn::Sub(one, e), hn::Add(one, e)), x);
  return hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, 0.625f)), small, large);
}

/// total += x; rest keeps what its rounding takes, until it is added again (Kahan's sum). The total
/// is always that of both, rounded.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void add_kept(D d, V x, V& total, V& rest) {
  // mutant "what rounding takes is kept" of long_sums_test: hn::Add(x, rest) => x
  const V more = hn::Add(x, rest);
  const V sum = hn::Add(total, more);
  const V lost = hn::Sub(more, hn::Sub(sum, total));
  rest = hn::IfThenElse(hn::Eq(lost, lost), lost, hn::Zero(d));  // infinite sums lose nothing
  total = sum;
}

template <class D>
HWY_INLINE float sum_of(D d, const float* values, int64_t n) {
  auto sum = hn::Zero(d);
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
    sum = hn::Add(sum, hn::Load(d, values + i));
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
