// Numbers of every dtype multiplied as float32: widened as they are packed, loaded or read in
// place.
//
// An arithmetic is a struct of static functions: how a pass packs keys, loads queries, multiplies
// and narrows. TileForward, BackwardTile and their callers are templates of it; the plan names it
// (CpuPlan::arithmetic).
#if defined(FA_CPU_ARITHMETIC_WIDENED_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_ARITHMETIC_WIDENED_INL
#undef FA_CPU_ARITHMETIC_WIDENED_INL
#else
#define FA_CPU_ARITHMETIC_WIDENED_INL
#endif

#include <cstdint>

#include "cpu/direct-inl.hpp"
#include "cpu/gemm-inl.hpp"
#include "cpu/rows-inl.hpp"
#include "hwy/highway.h"
#include "plan/cpu/plan.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Products by the register tiles of gemm-inl.hpp, of numbers or of pairs of them. All matrices are
/// scratch, addressed as floats.
template <typename Element>
struct VectorProducts {
  /// Rows whose products may begin or end at keys of their own.
  static constexpr int64_t group_rows = tile_rows;
  /// A thread's registers that need a shape while it multiplies: none.
  struct Registers {};

  /// Row stride of the queries that `scores` takes: they lie transposed.
  static int64_t query_stride(int64_t /*width*/, int64_t rows) { return row_stride(rows); }

  /// S [m][score_stride] = A B: queries [depth][a_stride] and keys [depth][score_stride], both
  /// transposed. columns: for each group of rows how many keys count, or null for all.
  static HWY_INLINE void scores(int64_t m, int64_t n, int64_t depth, const float* a,
                                int64_t a_stride, const float* b, float* s,
                                const int64_t* columns) {
    gemm<Layout::transposed>(m, n, depth, elements_at(a), a_stride, elements_at(b), score_stride, s,
                             score_stride, {Accumulate::store, nullptr, score_run},
                             {.columns = columns});
  }

  /// C [m][row_stride(n)] = (C +) A B: A [m][score_stride] of queries, B [depth][row_stride(n)] of
  /// keys. reach: for each group of rows how many keys count, or null for all.
  static HWY_INLINE void add_to_queries(int64_t m, int64_t n, int64_t depth, const float* a,
                                        const float* b, float* c, Accumulate accumulate,
                                        const int64_t* reach) {
    gemm<Layout::scores>(m, n, depth, elements_at(a), score_stride, elements_at(b), row_stride(n),
                         c, row_stride(n), accumulate, {.depth = reach});
  }

  /// C [m][row_stride(n)] += A^T B: A [depth][score_stride] and B [depth][row_stride(n)] of
  /// queries, C of keys. first: for each group of keys the first row that counts, or null for all.
  /// The scratch is that of TileArithmetic.
  static HWY_INLINE void add_to_keys(int64_t m, int64_t n, int64_t depth, const float* a,
                                     const float* b, float* c, int64_t run, const int64_t* first,
                                     float* /*scratch*/) {
    gemm<Layout::transposed>(m, n, depth, elements_at(a), score_stride, elements_at(b),
                             row_stride(n), c, row_stride(n), {Accumulate::add, nullptr, run},
                             {.first = first});
  }

 private:
  static const Element* elements_at(const float* x) { return reinterpret_cast<const Element*>(x); }
};

struct WidenedArithmetic : VectorProducts<float> {
  static constexpr Arithmetic name = Arithmetic::widened;
  static constexpr bool in_words = false;  ///< of two bfloat16 numbers
  static constexpr bool reads_in_place = true;

  /// Rows of a tensor as [width][score_stride], transposed.
  template <class RowAt>
  static HWY_INLINE void pack_transposed(DType dtype, const RowAt& row_at, int64_t rows,
                                         int64_t width, float* out) {
    load_transposed(dtype, row_at, rows, width, 1.0f, out, score_stride);
  }
  /// Rows of a tensor as [rows][row_stride(width)].
  template <class RowAt>
  static HWY_ATTR HWY_INLINE void pack_rows(DType dtype, const RowAt& row_at, int64_t rows,
                                            int64_t width, float* out) {
    for (int64_t r = 0; r < rows; ++r) {
      load_row(dtype, row_at(r), width, 1.0f, out + r * row_stride(width));
    }
  }

  /// Queries, times the scale, for `scores`.
  template <class RowAt>
  static HWY_INLINE void load_queries(DType dtype, const RowAt& row_at, int64_t rows, int64_t width,
                                      float scale, float* out, int64_t stride) {
    load_transposed(dtype, row_at, rows, width, scale, out, stride);
  }
  /// Loads the transposed queries, and beside them the rows as they are, [rows][row_stride(width)].
  template <class RowAt>
  static HWY_INLINE void load_queries_and_rows(DType dtype, const RowAt& row_at, int64_t rows,
                                               int64_t width, float scale, float* out,
                                               int64_t stride, float* as_rows) {
    pack_rows(dtype, row_at, rows, width, as_rows);
    const auto loaded = [&](int64_t r) {
      return reinterpret_cast<const char*>(as_rows + r * row_stride(width));
    };
    load_transposed(float32, loaded, rows, width, scale, out, stride);
  }
  /// Queries, times the scale, for products with keys in place: [rows][stride].
  template <class RowAt>
  static HWY_ATTR HWY_INLINE void load_queries_in_place(DType dtype, const RowAt& row_at,
                                                        int64_t rows, int64_t width, float scale,
                                                        float* out, int64_t stride) {
    for (int64_t r = 0; r < rows; ++r) {
      load_row(dtype, row_at(r), width, scale, out + r * stride);
    }
  }

  /// multiply(how, d) with what direct-inl.hpp takes: vectors that `width` is a multiple of.
  template <class Multiply>
  static HWY_INLINE void in_place(DType dtype, int64_t width, const Multiply& multiply) {
    with_type(dtype, [&]<typename T>(T) {
      if constexpr (hn::MaxLanes(Floats()) > hn::MaxLanes(D8())) {
        if (width % static_cast<int64_t>(hn::Lanes(Floats())) != 0) {
          return multiply(Widened<D8, T>(), D8());
        }
      }
      return multiply(Widened<Floats, T>(), Floats());
    });
  }

  /// P and dS are multiplied as they were formed. Returns the dS whose rows are summed over.
  static const float* narrow_gradients(const BackwardScratch& s, int64_t /*rows*/,
                                       int64_t /*keys*/) {
    return s.ds;
  }
};

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
