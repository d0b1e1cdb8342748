// The one matrix product of the CPU kernels: register tiles of C = A B, A's elements broadcast,
// B's rows in vectors. Elements are float32 numbers, or pairs of bfloat16 (pairs-inl.hpp).
//
// A register tile is `tile_rows` x 2 vectors: with AVX-512 12 x 2 accumulators, 2 vectors of B and
// a broadcast fill 27 of 32 registers, and each step of k loads 14 values for 24 multiply-adds,
// under the two loads a cycle that a core has for its two multiply-adds. With 16 registers: 6 x 2.
#if defined(FA_CPU_GEMM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_GEMM_INL
#undef FA_CPU_GEMM_INL
#else
#define FA_CPU_GEMM_INL
#endif

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "cpu/pairs-inl.hpp"
#include "hwy/highway.h"
#include "plan/cpu/plan.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON
inline constexpr int vector_registers = 32;
#else
inline constexpr int vector_registers = 16;
#endif
inline constexpr int tile_rows = vector_registers == 32 ? 12 : 6;

/// How A lies: element (i, k).
enum class Layout {
  scores,     ///< a[i * score_stride + k]
  transposed  ///< a[k * stride + i]
};

/// How A B and the old C make the new C.
struct Accumulate {
  enum Mode { store, add, rescale } mode;
  const float* factors = nullptr;                     ///< rescale: C = factors[i] * C + A B
  int64_t run = std::numeric_limits<int64_t>::max();  ///< products of a partial sum of A B
};

/// The parts of C to compute, for each group of tile_rows rows; null means all. The other parts
/// stay as they are.
struct Wanted {
  const int64_t* columns = nullptr;  ///< of each group: so many of C's columns, padded
  const int64_t* depth = nullptr;    ///< so many of A's numbers, where the rest is 0
  const int64_t* first = nullptr;    ///< the first of A's numbers, where those before are 0; even
};

template <class V>
HWY_INLINE V add_products(V sum, V a, V b) {
  return hn::MulAdd(a, b, sum);
}

/// depth: in elements, as the strides.
template <Layout layout, int rows, int vectors, typename Element>
HWY_INLINE void register_tile(int64_t depth, const Element* HWY_RESTRICT a, int64_t a_stride,
                              const Element* HWY_RESTRICT b, int64_t b_stride,
                              float* HWY_RESTRICT c, int64_t c_stride, const Accumulate& accumulate,
                              const float* factors) {
  using D = hn::CappedTag<float, lane_pad>;
  using E = hn::CappedTag<Element, lane_pad>;
  const D d;
  const E e;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  HWY_ALIGN float partial[rows * vectors * lane_pad];  // the sums of the runs before
  hn::Vec<D> sum[rows][vectors];
  for (int64_t begin = 0, end = 0;; begin = end) {
    end = depth - begin > accumulate.run ? begin + accumulate.run : depth;
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[i][v] = hn::Zero(d);
    }
    for (int64_t k = begin; k < end; ++k) {
      hn::Vec<E> b_row[vectors];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) b_row[v] = hn::Load(e, b + k * b_stride + v * lanes);
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
        const auto a_ik = hn::Set(
            e, layout == Layout::transposed ? a[k * a_stride + i] : a[i * score_stride + k]);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) sum[i][v] = add_products(sum[i][v], a_ik, b_row[v]);
      }
    }
    if (begin > 0) {
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
          sum[i][v] = hn::Add(sum[i][v], hn::Load(d, partial + (i * vectors + v) * lane_pad));
        }
      }
    }
    if (end == depth) break;
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) {
        hn::Store(sum[i][v], d, partial + (i * vectors + v) * lane_pad);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      float* out = c + i * c_stride + v * lanes;
      auto value = sum[i][v];
      if (accumulate.mode == Accumulate::add) value = hn::Add(value, hn::Load(d, out));
      if (accumulate.mode == Accumulate::rescale) {
        value = hn::MulAdd(hn::Set(d, factors[i]), hn::Load(d, out), value);
      }
      hn::Store(value, d, out);
    }
  }
}

/// Elements that hold so many numbers.
template <typename Element>
int64_t elements(int64_t numbers) {
  return std::is_same_v<Element, Pair> ? ceil_div(numbers, 2) : numbers;
}

/// Columns [j, j + vectors) of C.
template <Layout layout, int vectors, typename Element>
HWY_ATTR void panel(int64_t m, int64_t j, int64_t depth, const Element* a, int64_t a_stride,
                    const Element* b, int64_t b_stride, float* c, int64_t c_stride,
                    Accumulate accumulate, Wanted wanted) {
  const auto tiles = [&]<int rows>(int64_t i) {
    for (; i + rows <= m; i += rows) {
      const int64_t group = i / tile_rows;
      if (wanted.columns != nullptr && padded(wanted.columns[group]) <= j) continue;
      const int64_t end = elements<Element>(wanted.depth != nullptr ? wanted.depth[group] : depth);
      const int64_t first = elements<Element>(wanted.first != nullptr ? wanted.first[group] : 0);
      const Element* a_tile =
          layout == Layout::transposed ? a + first * a_stride + i : a + i * score_stride + first;
      register_tile<layout, rows, vectors>(
          end - first, a_tile, a_stride, b + first * b_stride + j, b_stride, c + i * c_stride + j,
          c_stride, accumulate, accumulate.factors == nullptr ? nullptr : accumulate.factors + i);
    }
    return i;
  };
  int64_t i = tiles.template operator()<tile_rows>(0);
  if constexpr (tile_rows > 8) i = tiles.template operator()<8>(i);
  i = tiles.template operator()<4>(i);
  i = tiles.template operator()<2>(i);
  tiles.template operator()<1>(i);
}

/// C [m][c_stride] = (C +) A [m][depth] x B [depth][b_stride], columns 0 .. padded(n). B and C lie
/// on cache lines, their strides are multiples of lane_pad. Of the depth, which counts numbers, the
/// last pair's second may have to be 0.
template <Layout layout, typename Element>
HWY_ATTR void gemm(int64_t m, int64_t n, int64_t depth, const Element* a, int64_t a_stride,
                   const Element* b, int64_t b_stride, float* c, int64_t c_stride,
                   Accumulate accumulate, Wanted wanted = {}) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(hn::CappedTag<float, lane_pad>()));
  int64_t j = 0;
  for (; j + 2 * lanes <= padded(n); j += 2 * lanes) {
    panel<layout, 2>(m, j, depth, a, a_stride, b, b_stride, c, c_stride, accumulate, wanted);
  }
  if (j < padded(n)) {
    panel<layout, 1>(m, j, depth, a, a_stride, b, b_stride, c, c_stride, accumulate, wanted);
  }
}

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
