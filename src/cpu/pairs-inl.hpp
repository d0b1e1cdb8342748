// bfloat16 multiplied as it is: two numbers in a 32-bit word, two multiply-adds in a lane
// (AVX-512's vdpbf16ps; twice float32's rate on a Zen 4, and slower than it on Intel's: see
// target.cpp). The products of two bfloat16 numbers are exact in float32, which they are summed in;
// subnormal numbers, and sums, count as 0.
//
// A product A B takes words of two neighbouring k: of a row of A and of a column of B. Where a
// tensor's numbers lie side by side along k (Q, K, dO and V in S and dP), its memory has such words
// already. P and dS are rounded to bfloat16, and rows of the other tensors are interleaved.
#if defined(FA_CPU_PAIRS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_PAIRS_INL
#undef FA_CPU_PAIRS_INL
#else
#define FA_CPU_PAIRS_INL
#endif

#include <cstdint>
#include <limits>

#include "cpu/rows-inl.hpp"
#include "hwy/highway.h"
#include "plan/cpu/plan.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Pair = uint32_t;  ///< the first number in its lower half
using Pairs = hn::CappedTag<Pair, lane_pad>;

#undef FA_CPU_HAS_PAIRS
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
#define FA_CPU_HAS_PAIRS 1
#else
#define FA_CPU_HAS_PAIRS 0
#endif

/// How many products a register sums before the sum is set aside. Inputs with half a float32's
/// digits need no partial sums.
inline int64_t run_of(const Problem& p) {
  // mutant "partial sums in registers" of long_sums_test: p.dtype == float32 => false
  return p.dtype == float32 ? sum_run : std::numeric_limits<int64_t>::max();
}

#if FA_CPU_HAS_PAIRS
// By their names, since Highway 1.0.3 and its targets have none of these instructions.

/// sum + a[0] b[0] + a[1] b[1] in each lane.
template <class V, class P>
HWY_INLINE V add_products(V sum, P a, P b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
  return sum;
}

/// Numbers of two vectors rounded to nearest even: those of `first`, then those of `second`.
template <class V>
HWY_INLINE hn::Vec<Pairs> narrow(V first, V second) {
  hn::Vec<Pairs> out;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(out.raw) : "v"(second.raw), "v"(first.raw));
  return out;
}

/// Narrows two vectors; word i of the result has number i of both.
template <class V>
HWY_INLINE hn::Vec<Pairs> narrow_interleaved(V first, V second) {
  HWY_ALIGN static constexpr uint16_t order[2 * lane_pad] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto numbers = narrow(first, second);
  return hn::Vec<Pairs>{_mm512_permutexvar_epi16(_mm512_load_si512(order), numbers.raw)};
}

/// Words of the numbers of two rows: those of the first 16 columns, and of the next.
HWY_INLINE void interleave(hn::Vec<Pairs> first, hn::Vec<Pairs> second, hn::Vec<Pairs>& low,
                           hn::Vec<Pairs>& high) {
  HWY_ALIGN static constexpr uint16_t order[4 * lane_pad] = {
      0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
      11, 43, 12, 44, 13, 45, 14, 46, 15, 47, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53,
      22, 54, 23, 55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  low.raw = _mm512_permutex2var_epi16(first.raw, _mm512_load_si512(order), second.raw);
  high.raw =
      _mm512_permutex2var_epi16(first.raw, _mm512_load_si512(order + 2 * lane_pad), second.raw);
}
#endif

inline const Pair* as_pairs(const float* words) { return reinterpret_cast<const Pair*>(words); }
inline Pair* as_pairs(float* words) { return reinterpret_cast<Pair*>(words); }

/// out[c * stride + r] = the numbers 2 c and 2 c + 1 of row r, as load_transposed. `width` is a
/// multiple of 8; `out` has room for so many rows.
template <class RowAt>
HWY_ATTR void transpose_pairs(const RowAt& row_at, int64_t rows, int64_t width, Pair* out,
                              int64_t stride) {
  const D8 d;
  const auto load = [&](const float* row, int64_t c) {
    if (c + static_cast<int64_t>(hn::Lanes(d)) <= width / 2) return hn::LoadU(d, row + c);
    return hn::ZeroExtendVector(d, hn::LoadU(hn::Half<D8>(), row + c));  // the last 4 words
  };
  transpose_rows<float>(row_at, rows, width / 2, load, reinterpret_cast<float*>(out), stride);
}

/// out[i / 2 * stride + c] = the numbers c of rows i and i + 1, for c < padded(width). `width` is a
/// multiple of 8; rows from `rows` on are 0.
template <class RowAt>
HWY_ATTR void interleave_rows(const RowAt& row_at, int64_t rows, int64_t width, Pair* out,
                              int64_t stride) {
  const hn::CappedTag<Pair, 8> d;
  const hn::Rebind<uint16_t, decltype(d)> halves;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < rows; i += 2) {
    const auto* first = reinterpret_cast<const uint16_t*>(row_at(i));
    const auto* second = reinterpret_cast<const uint16_t*>(i + 1 < rows ? row_at(i + 1) : row_of_0);
    Pair* words = out + i / 2 * stride;
    int64_t c = 0;
    for (; c < width; c += lanes) {
      const auto low = hn::PromoteTo(d, hn::LoadU(halves, first + c));
      const auto high = hn::PromoteTo(d, hn::LoadU(halves, second + c));
      hn::Store(hn::Or(low, hn::ShiftLeft<16>(high)), d, words + c);
    }
    for (; c < padded(width); ++c) words[c] = 0;
  }
}

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
