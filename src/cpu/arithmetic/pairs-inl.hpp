// bfloat16 multiplied as it is, by vectors of pairs (pairs-inl.hpp).
#if defined(FA_CPU_ARITHMETIC_PAIRS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_ARITHMETIC_PAIRS_INL
#undef FA_CPU_ARITHMETIC_PAIRS_INL
#else
#define FA_CPU_ARITHMETIC_PAIRS_INL
#endif

#include <array>
#include <cstdint>
#include <cstring>

#include "cpu/arithmetic/widened-inl.hpp"
#include "cpu/direct-inl.hpp"
#include "cpu/pairs-inl.hpp"
#include "cpu/rows-inl.hpp"
#include "hwy/highway.h"
#include "plan/cpu/plan.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if FA_CPU_HAS_PAIRS
/// Scratch that holds words has half as many rows, or half as long ones.
struct PairArithmetic : VectorProducts<Pair> {
  static constexpr Arithmetic name = Arithmetic::pairs;
  static constexpr bool in_words = true;
  static constexpr bool reads_in_place = true;

  template <class RowAt>
  static HWY_INLINE void pack_transposed(DType /*dtype*/, const RowAt& row_at, int64_t rows,
                                         int64_t width, float* out) {
    transpose_pairs(row_at, rows, width, as_pairs(out), score_stride);
  }
  template <class RowAt>
  static HWY_INLINE void pack_rows(DType /*dtype*/, const RowAt& row_at, int64_t rows,
                                   int64_t width, float* out) {
    interleave_rows(row_at, rows, width, as_pairs(out), row_stride(width));
  }

  template <class RowAt>
  static HWY_INLINE void load_queries(DType /*dtype*/, const RowAt& row_at, int64_t rows,
                                      int64_t width, float /*scale*/, float* out, int64_t stride) {
    transpose_pairs(row_at, rows, width, as_pairs(out), stride);
  }
  template <class RowAt>
  static HWY_INLINE void load_queries_and_rows(DType dtype, const RowAt& row_at, int64_t rows,
                                               int64_t width, float scale, float* out,
                                               int64_t stride, float* as_rows) {
    pack_rows(dtype, row_at, rows, width, as_rows);
    load_queries(dtype, row_at, rows, width, scale, out, stride);
  }
  template <class RowAt>
  static HWY_INLINE void load_queries_in_place(DType dtype, const RowAt& row_at, int64_t rows,
                                               int64_t width, float /*scale*/, float* out,
                                               int64_t stride) {
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(out + r * stride, row_at(r), width * bytes_of(dtype));
    }
  }

  template <class Multiply>
  static HWY_INLINE void in_place(DType /*dtype*/, int64_t /*width*/, const Multiply& multiply) {
    multiply(Paired(), Floats());
  }

  /// Weights of keys [j, j + 2 lanes) of a row, in place: words [j / 2, j / 2 + lanes).
  template <class V>
  static HWY_INLINE void store_weights(V first, V second, float* row, int64_t j) {
    hn::Store(narrow(first, second), Pairs(), as_pairs(row) + j / 2);
  }

  /// P and dS as pairs of two rows each, and dS as pairs of two keys, in place but for the second,
  /// which is returned.
  static HWY_ATTR const float* narrow_gradients(const BackwardScratch& s, int64_t rows,
                                                int64_t keys) {
    const Floats d;
    const Pairs dp;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    using Two = std::array<hn::Vec<Floats>, 2>;
    const auto load = [&](const float* x, int64_t r, int64_t j) HWY_ATTR {
      const auto at = [&](int64_t key) HWY_ATTR {
        return r < rows && key < padded(keys) ? hn::Load(d, x + r * score_stride + key)
                                              : hn::Zero(d);
      };
      return Two{at(j), at(j + lanes)};
    };
    for (int64_t r = 0; r < rows; r += 2) {
      for (int64_t j = 0; j < padded(keys); j += 2 * lanes) {
        const Two p[2] = {load(s.p, r, j), load(s.p, r + 1, j)};
        const Two ds[2] = {load(s.ds, r, j), load(s.ds, r + 1, j)};
        for (int x = 0; x < 2; ++x) {
          const int64_t at = r / 2 * score_stride + j + x * lanes;
          hn::Store(narrow_interleaved(p[0][x], p[1][x]), dp, as_pairs(s.p) + at);
          hn::Store(narrow_interleaved(ds[0][x], ds[1][x]), dp, as_pairs(s.ds_pairs) + at);
          hn::Store(narrow(ds[x][0], ds[x][1]), dp,
                    as_pairs(s.ds) + (r + x) * score_stride + j / 2);
        }
      }
    }
    return s.ds_pairs;
  }
};
#endif

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
