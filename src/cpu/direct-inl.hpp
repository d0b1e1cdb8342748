// The two products of a few query rows with keys and values where they lie: decoding reads each of
// them once, so that packing them would cost as much as the rest.
//
// Cost of M rows for a key: 2 M (D + Dv) multiply-adds for (D + Dv) numbers of memory. A core that
// reads 15 GB/s and multiplies 118 GFLOP/s waits for its memory up to M = 16 in float32 and 8 in
// bfloat16, so the order of the reads matters most. Usually the heads of a key are neighbours in
// memory and the keys of a head are not. Reading 16 or 32 keys of each head in turn, 8 KB of every
// key, reaches the rate of a plain loop; one head at a time reaches half of it. Prefetches let a
// core read later keys while it multiplies.
#if defined(FA_CPU_DIRECT_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_DIRECT_INL
#undef FA_CPU_DIRECT_INL
#else
#define FA_CPU_DIRECT_INL
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/gemm-inl.hpp"
#include "cpu/pairs-inl.hpp"
#include "cpu/rows-inl.hpp"
#include "hwy/highway.h"
#include "plan/cpu/plan.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Sums of a product, shared out to keys and queries.
inline constexpr int direct_sums = vector_registers / 2;
/// Most rows of a product. (With 8 of them GCC reads Q from memory twice, which the load ports have
/// no room for.)
inline constexpr int dot_rows = 4;
inline constexpr int mix_rows = direct_sums / 2;

/// Rows of K or V from a key on, where the tensor has them: one behind the other, or in pages.
template <typename T>
struct InPlace {
  const T* first;      ///< of that key, or of page 0
  int64_t row_stride;  ///< in numbers
  int64_t head_stride;
  int64_t page_stride;
  Pages pages;
  int64_t begin;  ///< that key's number in its sequence
  int64_t count;  ///< keys from it on; only these have pages

  const T* row(int64_t j, int64_t head) const {
    const T* at = first + head * head_stride;
    if (pages.size == 0) return at + j * row_stride;
    return at + pages.page(begin + j) * page_stride + (begin + j) % pages.size * row_stride;
  }
  /// How many of `most` keys from j on lie one behind the other.
  int64_t together(int64_t j, int64_t most) const {
    return pages.size == 0 ? most : std::min(most, pages.end_of_page(begin + j) - (begin + j));
  }
  bool has(int64_t j) const { return pages.size == 0 || j < count; }
};

/// A few query rows: `rows` rows for each of `heads` key heads.
struct FewRows {
  int64_t heads;
  int64_t rows;
};

/// Addresses to prefetch. While a product reads bytes [b, b + 64) of a key, it prefetches the same
/// bytes of a later key, so that loads and multiply-adds overlap. They go to L2: L1 cannot hold
/// rows that lie a page apart.
struct Ahead {
  const char* first = nullptr;  ///< or none; beyond the tensor's end, asking is harmless
  int64_t stride = 0;           ///< in bytes

  Ahead from(int64_t key, int64_t byte) const { return {first + key * stride + byte, stride}; }
  HWY_INLINE void ask(int64_t key, int64_t byte) const {
    __builtin_prefetch(first + key * stride + byte, 0, 2);
  }
};

/// The keys three turns ahead. One turn ahead, four rows on bfloat16 keys read 18 GB/s with two
/// cores instead of 28.
template <typename T>
Ahead keys_ahead(const InPlace<T>& x, FewRows few, int64_t j, int64_t head, int64_t keys_in_turn) {
  const int64_t turn = head + 3;
  const int64_t row = j + turn / few.heads * keys_in_turn;
  if (!x.has(row)) return {};
  const auto* first = reinterpret_cast<const char*>(x.row(row, turn % few.heads));
  return {first, x.row_stride * static_cast<int64_t>(sizeof(T))};
}

/// A few keys of one head.
template <typename T>
struct Keys {
  const T* first;
  int64_t stride;
  Ahead ahead;
};

/// Numbers in place that are widened to float32 as they are read.
template <class D, typename T>
struct Widened {
  using Number = T;
  using Operand = hn::Vec<D>;
  static constexpr int64_t numbers = static_cast<int64_t>(hn::MaxLanes(D()));  ///< of an operand
  static constexpr int64_t keys = 1;           ///< in an operand of P V
  static constexpr int64_t keys_in_turn = 16;  ///< of a head, before the next one's
  static constexpr int vectors = 1;            ///< of V that are read together, at least

  static HWY_INLINE Operand query(const float* q, int64_t c) { return hn::Load(D(), q + c); }
  static HWY_INLINE Operand key(const T* k, int64_t c) { return load_wide(D(), k + c); }
  static HWY_INLINE Operand weight(const float* p, int64_t j) { return hn::Set(D(), p[j]); }
  template <int count>
  static HWY_INLINE void values(const T* v, const T* /*next*/, Operand (&out)[count]) {
#pragma GCC unroll 8
    for (int x = 0; x < count; ++x) out[x] = load_wide(D(), v + x * numbers);
  }
};

#if FA_CPU_HAS_PAIRS
/// bfloat16 in place, multiplied as it is: Q and P are words, a pair of V is of two keys.
struct Paired {
  using Number = hwy::bfloat16_t;
  using Operand = hn::Vec<Pairs>;
  static constexpr int64_t numbers = 2 * lane_pad;
  static constexpr int64_t keys = 2;
  /// With 16, eight rows were 6% slower, since O comes and goes twice as often. (Widened numbers on
  /// 16 cores of a Xeon were 5 to 8% slower with 32.)
  static constexpr int64_t keys_in_turn = 32;
  static constexpr int vectors = 2;

  static HWY_INLINE Operand query(const float* q, int64_t c) {
    return hn::Load(Pairs(), as_pairs(q) + c / 2);
  }
  static HWY_INLINE Operand key(const Number* k, int64_t c) {
    return hn::LoadU(Pairs(), reinterpret_cast<const Pair*>(k + c));
  }
  static HWY_INLINE Operand weight(const float* p, int64_t j) {
    return hn::Set(Pairs(), as_pairs(p)[j / 2]);
  }
  template <int count>
  static HWY_INLINE void values(const Number* v, const Number* next, Operand (&out)[count]) {
#pragma GCC unroll 4
    for (int x = 0; x < count; x += 2) {
      interleave(key(v, x * lane_pad), key(next, x * lane_pad), out[x], out[x + 1]);
    }
  }
};
#endif

/// A vector's 128-bit parts, added up.
template <class V>
HWY_INLINE hn::Vec<hn::FixedTag<float, 4>> fold(V x) {
  const hn::DFromV<V> d;
  if constexpr (hn::MaxLanes(d) <= 4) {
    return x;
  } else {
    const hn::Half<hn::DFromV<V>> half;
    return fold(hn::Add(hn::LowerHalf(half, x), hn::UpperHalf(half, x)));
  }
}

/// The sums over the lanes of four vectors.
template <class V>
HWY_INLINE hn::Vec<hn::FixedTag<float, 4>> sums_of(V a, V b, V c, V e) {
  const hn::DFromV<V> d;
  const hn::Repartition<double, hn::DFromV<V>> pairs;
  const auto ab = hn::BitCast(  // a0 + a2, b0 + b2, a1 + a3, b1 + b3 in each part
      pairs, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  const auto ce =
      hn::BitCast(pairs, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  return fold(hn::Add(hn::BitCast(d, hn::InterleaveLower(pairs, ab, ce)),
                      hn::BitCast(d, hn::InterleaveUpper(pairs, ab, ce))));
}

/// Stores sums, or adds them to what is there.
template <class V>
HWY_INLINE void put(V sums, bool add, float* HWY_RESTRICT s) {
  const hn::DFromV<V> d;
  hn::StoreU(add ? hn::Add(hn::LoadU(d, s), sums) : sums, d, s);
}

/// s[r][x] = <q row r, key x>, of their numbers [first, last); added to s where first > 0. Keys
/// from `keys_left` on stand for the last one before.
template <class Use, int rows, int keys, class D, typename T>
HWY_INLINE void dot_tile(D d, const float* HWY_RESTRICT q, int64_t q_stride, Keys<T> k,
                         int64_t keys_left, int64_t first, int64_t last, float* HWY_RESTRICT s) {
  hn::Vec<D> sum[rows][keys];
  const T* key[keys];
#pragma GCC unroll 16
  for (int x = 0; x < keys; ++x) {
    key[x] = k.first + std::min<int64_t>(x, keys_left - 1) * k.stride;
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) sum[r][x] = hn::Zero(d);
  }
  for (int64_t c = first; c < last; c += Use::numbers) {
    const int64_t byte = c * static_cast<int64_t>(sizeof(T));
    if (k.ahead.first != nullptr && byte % 64 == 0) {
      for (int x = 0; x < keys; ++x) k.ahead.ask(x, byte);
    }
    typename Use::Operand q_c[rows];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) q_c[r] = Use::query(q + r * q_stride, c);
#pragma GCC unroll 16
    for (int x = 0; x < keys; ++x) {
      const auto k_c = Use::key(key[x], c);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) sum[r][x] = add_products(sum[r][x], q_c[r], k_c);
    }
  }
  if constexpr (keys >= 4) {
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
      for (int x = 0; x < keys; x += 4) {
        put(sums_of(sum[r][x], sum[r][x + 1], sum[r][x + 2], sum[r][x + 3]), first > 0,
            s + r * score_stride + x);
      }
    }
  } else {
    static_assert(keys == 2 && rows % 2 == 0);
    const hn::FixedTag<float, 2> two;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r += 2) {
      const auto sums = sums_of(sum[r][0], sum[r][1], sum[r + 1][0], sum[r + 1][1]);
      put(hn::LowerHalf(two, sums), first > 0, s + r * score_stride);
      put(hn::UpperHalf(two, sums), first > 0, s + (r + 1) * score_stride);
    }
  }
}

/// Where a product's sums go. In a block's last turn they are added to the rows of O, before that
/// to `block`, the sums of the turns so far.
struct Outputs {
  const float* factors;  ///< of O's rows
  float* out;
  float* block;
  int64_t stride;
  bool first;  ///< turn of the block
  bool last;

  Outputs from(int64_t row, int64_t column) const {
    const int64_t at = row * stride + column;
    return {factors + row, out + at, block + at, stride, first, last};
  }
};

/// Sums over keys of s[r][j] v[j], for `vectors` vectors of each row, added to `to`.
template <class Use, int rows, int vectors, class D, typename T>
HWY_INLINE void mix_tile(D d, const float* HWY_RESTRICT s, Keys<T> v, int64_t keys,
                         const Outputs& to) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  constexpr int64_t size = sizeof(T);
  hn::Vec<D> sum[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int x = 0; x < vectors; ++x) sum[r][x] = hn::Zero(d);
  }
  for (int64_t j = 0; j < keys; j += Use::keys) {
    const T* value = v.first + j * v.stride;
    const T* next = value + (j + 1 < keys ? v.stride : 0);  // behind the last, P is 0
    if (v.ahead.first != nullptr) {
      for (int64_t key = j; key < j + Use::keys; ++key) {
        for (int64_t byte = 0; byte < vectors * lanes * size; byte += 64) v.ahead.ask(key, byte);
      }
    }
    typename Use::Operand v_j[vectors];
    Use::values(value, next, v_j);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const auto p = Use::weight(s + r * score_stride, j);
#pragma GCC unroll 8
      for (int x = 0; x < vectors; ++x) sum[r][x] = add_products(sum[r][x], p, v_j[x]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int x = 0; x < vectors; ++x) {
      const int64_t at = r * to.stride + x * lanes;
      if (!to.first) sum[r][x] = hn::Add(sum[r][x], hn::Load(d, to.block + at));
      if (to.last) {
        const auto out = hn::Load(d, to.out + at);
        hn::Store(hn::MulAdd(hn::Set(d, to.factors[r]), out, sum[r][x]), d, to.out + at);
      } else {
        hn::Store(sum[r][x], d, to.block + at);
      }
    }
  }
}

/// Calls part(Count<most>(), r), then with its half and so on, for parts of m rows.
template <int count>
using Count = std::integral_constant<int, count>;
template <int most, class Part>
HWY_INLINE void in_parts(int64_t m, const Part& part, int64_t r = 0) {
  for (; r + most <= m; r += most) part(Count<most>(), r);
  if constexpr (most > 1) in_parts<most / 2>(m, part, r);
}

/// S [rows of all heads][score_stride] = Q K^T for keys [0, n); keys up to the next multiple
/// of 16 get any number. q: rows of float32, or of pairs.
template <class Use, class D, typename T>
HWY_ATTR void scores_in_place(Use, D d, FewRows few, int64_t n, int64_t head_dim, const float* q,
                              int64_t q_stride, const InPlace<T>& k, float* s) {
  // A lane's share of a head_dim grows as vectors narrow: so many numbers are score_run for each.
  const int64_t run = score_run * static_cast<int64_t>(hn::Lanes(d));
  for (int64_t g = 0, keys_left = 0; g < n; g += keys_left) {
    keys_left = k.together(g, std::min(Use::keys_in_turn, n - g));
    for (int64_t h = 0; h < few.heads; ++h) {
      const T* first = k.row(g, h);
      const Ahead ahead = keys_ahead(k, few, g, h, Use::keys_in_turn);
      in_parts<dot_rows>(few.rows, [&]<int rows>(Count<rows>, int64_t r) {
        constexpr int keys = direct_sums / rows;
        const int64_t row = h * few.rows + r;
        for (int64_t j = 0; j < keys_left; j += keys) {
          const Keys<T> at{first + j * k.row_stride, k.row_stride,
                           r == 0 ? ahead.from(j, 0) : Ahead()};
          for (int64_t c = 0; c < head_dim; c += run) {
            dot_tile<Use, rows, keys>(d, q + row * q_stride, q_stride, at, keys_left - j, c,
                                      std::min(c + run, head_dim), s + row * score_stride + g + j);
          }
        }
      });
    }
  }
}

/// O [rows of all heads][o_stride] = factors O + P V for keys [0, n). p:
/// [rows][score_stride], in float32 or pairs. block: as O, scratch.
template <class Use, class D, typename T>
HWY_ATTR void outputs_in_place(Use, D d, FewRows few, int64_t n, int64_t head_dim_v, const float* p,
                               const InPlace<T>& v, const float* factors, float* o, float* block,
                               int64_t o_stride) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  constexpr int64_t size = sizeof(T);
  for (int64_t g = 0, keys = 0; g < n; g += keys) {
    keys = v.together(g, std::min(Use::keys_in_turn, n - g));
    const Outputs to{factors, o, block, o_stride, g == 0, g + keys == n};
    for (int64_t h = 0; h < few.heads; ++h) {
      const T* first = v.row(g, h);
      const Ahead ahead = keys_ahead(v, few, g, h, Use::keys_in_turn);
      in_parts<mix_rows>(few.rows, [&]<int rows>(Count<rows>, int64_t r) {
        constexpr int vectors = std::min(8, direct_sums / rows);
        const int64_t row = h * few.rows + r;
        int64_t column = 0;
        const auto mix = [&]<int count>(Count<count>) {
          for (; column + count * lanes <= head_dim_v; column += count * lanes) {
            mix_tile<Use, rows, count>(d, p + row * score_stride + g / Use::keys,
                                       Keys<T>{first + column, v.row_stride,
                                               r == 0 ? ahead.from(0, column * size) : Ahead()},
                                       keys, to.from(row, column));
          }
        };
        mix(Count<vectors>());
        mix(Count<Use::vectors>());
      });
    }
  }
}

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
