// bfloat16 multiplied as it is, by AMX's tile registers (amx-inl.hpp).
#if defined(FA_CPU_ARITHMETIC_TILES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_ARITHMETIC_TILES_INL
#undef FA_CPU_ARITHMETIC_TILES_INL
#else
#define FA_CPU_ARITHMETIC_TILES_INL
#endif

#include <cstdint>
#include <cstring>

#include "cpu/amx-inl.hpp"
#include "cpu/arithmetic/pairs-inl.hpp"
#include "cpu/pairs-inl.hpp"
#include "cpu/rows-inl.hpp"
#include "hwy/highway.h"
#include "plan/cpu/plan.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if FA_CPU_HAS_PAIRS
/// Packs and narrows as PairArithmetic does. Queries lie row by row, and the depth of a product is
/// filled up with 0 to whole tiles.
struct TileArithmetic : PairArithmetic {
  static constexpr Arithmetic name = Arithmetic::tiles;
  static constexpr bool reads_in_place = false;
  static constexpr int64_t group_rows = tile_span;
  using Registers = TileRegisters;

  static int64_t query_stride(int64_t width, int64_t /*rows*/) { return row_stride(width / 2); }

  template <class RowAt>
  static HWY_INLINE void pack_rows(DType dtype, const RowAt& row_at, int64_t rows, int64_t width,
                                   float* out) {
    PairArithmetic::pack_rows(dtype, row_at, rows, width, out);
    clear_to_tile(rows, as_pairs(out), row_stride(width));
  }
  template <class RowAt>
  static HWY_INLINE void load_queries(DType dtype, const RowAt& row_at, int64_t rows, int64_t width,
                                      float scale, float* out, int64_t stride) {
    load_queries_in_place(dtype, row_at, rows, width, scale, out, stride);
  }
  template <class RowAt>
  static HWY_INLINE void load_queries_and_rows(DType dtype, const RowAt& row_at, int64_t rows,
                                               int64_t width, float scale, float* out,
                                               int64_t stride, float* as_rows) {
    pack_rows(dtype, row_at, rows, width, as_rows);
    load_queries(dtype, row_at, rows, width, scale, out, stride);
  }

  static HWY_INLINE void scores(int64_t m, int64_t n, int64_t depth, const float* a,
                                int64_t a_stride, const float* b, float* s,
                                const int64_t* columns) {
    tile_product(m, n, depth, as_pairs(a), a_stride, as_pairs(b), score_stride, s, score_stride,
                 Accumulate::store, {.columns = columns});
  }

  static HWY_INLINE void add_to_queries(int64_t m, int64_t n, int64_t depth, const float* a,
                                        const float* b, float* c, Accumulate accumulate,
                                        const int64_t* reach) {
    if (accumulate.mode == Accumulate::rescale) rescale(m, n, accumulate.factors, c);
    tile_product(m, n, depth, as_pairs(a), score_stride, as_pairs(b), row_stride(n), c,
                 row_stride(n), Accumulate::add, {.depth = reach});
  }

  /// scratch: [keys up to a whole tile][row_stride(pairs of rows)].
  static HWY_INLINE void add_to_keys(int64_t m, int64_t n, int64_t depth, const float* a,
                                     const float* b, float* c, int64_t /*run*/,
                                     const int64_t* first, float* scratch) {
    const int64_t stride = row_stride(ceil_div(depth, 2));
    transpose_words(a, m, depth, scratch, stride);
    tile_product(m, n, depth, as_pairs(scratch), stride, as_pairs(b), row_stride(n), c,
                 row_stride(n), Accumulate::add, {.first = first});
  }

 private:
  static HWY_ATTR HWY_INLINE void rescale(int64_t rows, int64_t width, const float* factors,
                                          float* c) {
    const Floats d;
    for (int64_t r = 0; r < rows; ++r) {
      if (factors[r] == 1) continue;
      const auto factor = hn::Set(d, factors[r]);
      float* row = c + r * row_stride(width);
      for (int64_t x = 0; x < width; x += static_cast<int64_t>(hn::Lanes(d))) {
        hn::Store(hn::Mul(factor, hn::Load(d, row + x)), d, row + x);
      }
    }
  }

  /// Words of pairs of rows, key by key as tiles take them: out [keys up to a whole tile][stride].
  static HWY_ATTR void transpose_words(const float* words, int64_t keys, int64_t rows, float* out,
                                       int64_t stride) {
    const D8 d;
    const auto row_at = [&](int64_t r) {
      return reinterpret_cast<const char*>(words + r * score_stride);
    };
    const auto load = [&](const float* row, int64_t c) { return hn::LoadU(d, row + c); };
    transpose_rows<float>(row_at, ceil_div(rows, 2), padded(keys), load, out, stride);
    std::memset(out + padded(keys) * stride, 0,
                (in_tiles(keys) - padded(keys)) * stride * sizeof(float));
  }
};
#endif

/// use(how), with the arithmetic that a plan names.
template <class Use>
HWY_INLINE void with_arithmetic([[maybe_unused]] Arithmetic arithmetic, const Use& use) {
#if FA_CPU_HAS_PAIRS
  if (arithmetic == Arithmetic::tiles) return use(TileArithmetic());
  if (arithmetic == Arithmetic::pairs) return use(PairArithmetic());
#endif
  use(WidenedArithmetic());
}

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
