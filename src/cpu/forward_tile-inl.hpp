// The forward pass of one tile: Algorithm 1 of FlashAttention-2, on registers and caches of a CPU.
//
// Cost of a tile of M rows for a block of N keys: 2 M N (D + Dv) multiply-adds. The tile reads the
// block, (D + Dv) N floats, from L2 or beyond and keeps Q, S and O in L2. At M = 96 and 200 GFLOP/s
// a core reads 4 GB/s, so memory does not matter. The register tile does, and the softmax: some 20
// vector instructions for each 16 scores, beside their 2 (D + Dv) / 2 multiply-adds.
#if defined(FA_CPU_FORWARD_TILE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_FORWARD_TILE_INL
#undef FA_CPU_FORWARD_TILE_INL
#else
#define FA_CPU_FORWARD_TILE_INL
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/arithmetic/tiles-inl.hpp"
#include "cpu/direct-inl.hpp"
#include "cpu/gemm-inl.hpp"
#include "cpu/kernels.hpp"
#include "cpu/math-inl.hpp"
#include "cpu/pairs-inl.hpp"
#include "cpu/row_end-inl.hpp"
#include "cpu/rows-inl.hpp"
#include "cpu/score-inl.hpp"
#include "hwy/highway.h"
#include "plan/cpu/plan.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Keys [key, key + keys) as K^T [head_dim][score_stride] and V [keys][row_stride(head_dim_v)]; in
/// words half as many rows of each.
template <class A>
HWY_ATTR void pack_keys(const Call& call, const Sequence& seq, int64_t head_k, int64_t key,
                        int64_t keys, float* packed) {
  const Problem& p = call.problem;
  const auto k = [&](int64_t j) { return key_row(call.k, seq, key + j, head_k); };
  const auto v = [&](int64_t j) { return key_row(call.v, seq, key + j, head_k); };
  A::pack_transposed(p.dtype, k, keys, p.head_dim, packed);
  A::pack_rows(p.dtype, v, keys, p.head_dim_v, packed + p.head_dim * score_stride);
}

/// A tile of query rows against its keys. A: an arithmetic (arithmetic/widened-inl.hpp).
template <class A>
class TileForward {
 public:
  TileForward(const ForwardTile& task, const ForwardScratch& scratch)
      : t_(task),
        s_(scratch),
        p_(task.plan.problem),
        in_place_(A::reads_in_place && task.in_place),
        scale_(p_.score.scale, A::name),
        plain_((A::in_words ? scale_.score > 0 : scale_.score == 1) && p_.score.softcap == 0 &&
               !p_.score.reads_tensors()),
        rows_(task.tile.heads * task.tile.rows),
        q_stride_(in_place_ ? row_stride(p_.head_dim)
                            : A::query_stride(p_.head_dim, task.plan.packed_rows)),
        o_stride_(row_stride(p_.head_dim_v)) {}

  HWY_ATTR void run() {
    [[maybe_unused]] const typename A::Registers registers{};
    load_queries();
    const int64_t block = t_.plan.tuning.forward_keys;
    const auto [begin, end] = keys_in_sight();
    const int64_t step_begin = in_place_ ? lane_pad : block;  // packed blocks have fixed places
    const int64_t settle_keys = t_.plan.tuning.settle_keys;
    const int64_t first = t_.key_begin + (begin - t_.key_begin) / step_begin * step_begin;
    for (int64_t j0 = first; j0 < end; j0 += block) {
      const int64_t n =
          std::min<int64_t>(block, end - j0);  // causal: not beyond the last row's last key
      step(j0, n);
      if ((j0 + n) % settle_keys == 0 && j0 + n < end) settle();
    }
    if (settled_ && keeps_rest()) settle();
    store();
  }

 private:
  // mutant "GQA head mapping": t_.head_k * p_.group() => t_.head_k
  int64_t head(int64_t r) const { return t_.head_k * p_.group() + t_.tile.head + r / t_.tile.rows; }
  int64_t row(int64_t r) const { return t_.tile.row + r % t_.tile.rows; }

  HWY_ATTR void load_queries() {
    const auto row_at = [&](int64_t r) {
      return query_row(t_.call.q, t_.sequence, row(r), head(r));
    };
    if (in_place_) {
      A::load_queries_in_place(p_.dtype, row_at, rows_, p_.head_dim, scale_.query, s_.q, q_stride_);
    } else {
      A::load_queries(p_.dtype, row_at, rows_, p_.head_dim, scale_.query, s_.q, q_stride_);
    }
    std::memset(s_.o, 0, rows_ * o_stride_ * sizeof(float));
    std::memset(s_.sum, 0, rows_ * lane_pad * sizeof(float));
    std::fill_n(s_.maximum, padded(rows_), minus_infinity);
    std::fill_n(s_.base, rows_, minus_infinity);
    std::fill_n(s_.settled_sum, rows_, 0.0);
  }

  mask::KeyRange keys_of_row(int64_t i) const {
    const Sequence& seq = t_.sequence;
    return mask::key_range(i, seq.q.len, seq.k.len, p_.score.window_left, p_.score.window_right);
  }
  mask::KeyRange keys_of_first_row() const { return keys_of_row(t_.tile.row); }
  mask::KeyRange keys_of_last_row() const { return keys_of_row(t_.tile.row + t_.tile.rows - 1); }

  /// The keys that some row of the tile sees. Both ends of a row's range never fall as rows grow.
  mask::KeyRange keys_in_sight() const {
    return {std::clamp<int64_t>(keys_of_first_row().begin, t_.key_begin, t_.key_end),
            std::min<int64_t>(keys_of_last_row().end, t_.key_end)};
  }
  bool all_rows_see(int64_t begin, int64_t end) const {
    return keys_of_last_row().begin <= begin && keys_of_first_row().end >= end;
  }

  HWY_ATTR const float* key_block(int64_t j0, int64_t n) const {
    const int64_t block = t_.plan.tuning.forward_keys;
    if (t_.packed != nullptr) return t_.packed + j0 / block * packed_block_floats(p_, block);
    pack_keys<A>(t_.call, t_.sequence, t_.head_k, j0, n, s_.block);
    return s_.block;
  }

  FewRows few_rows() const { return {t_.heads_k, rows_ / t_.heads_k}; }

  /// Keys from j0 on.
  template <typename T>
  InPlace<T> rows_in_place(const Rows& rows, int64_t j0) const {
    const Pages& pages = t_.sequence.pages;
    const char* first = pages.size == 0 ? key_row(rows, t_.sequence, j0, t_.head_k)
                                        : rows.data + t_.head_k * rows.head * bytes_of(rows.dtype);
    return {reinterpret_cast<const T*>(first),
            rows.row,
            rows.head,
            rows.batch,
            pages,
            j0,
            t_.sequence.k.len - j0};
  }

  /// How many of the keys [j0, j0 + n) count for each group of A::group_rows rows: up to the last
  /// one that some row of the group sees. Under a causal mask a tile's last blocks are half empty,
  /// which at 1k keys is 9% of all products.
  const int64_t* find_reach(int64_t j0, int64_t n) {
    for (int64_t r0 = 0; r0 < rows_; r0 += A::group_rows) {
      int64_t end = 0;
      for (int64_t r = r0; r < std::min(r0 + A::group_rows, rows_); ++r) {
        end = std::max<int64_t>(end, keys_of_row(row(r)).end);
      }
      s_.reach[r0 / A::group_rows] = std::clamp<int64_t>(end - j0, 0, n);
    }
    return s_.reach;
  }
  int64_t keys_for(int64_t r, int64_t n) const {
    return reach_ != nullptr ? reach_[r / A::group_rows] : n;
  }

  /// S = Q K^T of keys [j0, j0 + n).
  HWY_ATTR HWY_INLINE void form_scores(int64_t j0, int64_t n, const float* packed) {
    if (!in_place_) {
      A::scores(rows_, n, p_.head_dim, s_.q, q_stride_, packed, s_.s, reach_);
      return;
    }
    if constexpr (A::reads_in_place) {
      A::in_place(p_.dtype, p_.head_dim, [&]<class Use>(Use use, auto d) {
        scores_in_place(use, d, few_rows(), n, p_.head_dim, s_.q, q_stride_,
                        rows_in_place<typename Use::Number>(t_.call.k, j0), s_.s);
      });
    }
  }

  /// O = rescale O + P V.
  HWY_ATTR HWY_INLINE void add_outputs(int64_t j0, int64_t n, const float* packed) {
    if (!in_place_) {
      const float* values = packed + p_.head_dim * score_stride;
      // mutant "online softmax: rescale of O": Accumulate::rescale => Accumulate::add
      const Accumulate rescaled{Accumulate::rescale, s_.rescale, run_of(p_)};
      A::add_to_queries(rows_, p_.head_dim_v, n, s_.s, values, s_.o, rescaled, reach_);
      return;
    }
    if constexpr (A::reads_in_place) {
      A::in_place(p_.dtype, p_.head_dim_v, [&]<class Use>(Use use, auto d) {
        outputs_in_place(use, d, few_rows(), n, p_.head_dim_v, s_.s,
                         rows_in_place<typename Use::Number>(t_.call.v, j0), s_.rescale, s_.o,
                         s_.settled, o_stride_);
      });
    }
  }

  /// One block: scores, online softmax, outputs.
  HWY_ATTR void step(int64_t j0, int64_t n) {
    const float* packed = in_place_ ? nullptr : key_block(j0, n);
    const bool masked = !all_rows_see(j0, j0 + n);
    reach_ = masked && !in_place_ ? find_reach(j0, n) : nullptr;
    form_scores(j0, n, packed);
    const bool product_is_score = plain_ && n % lane_pad == 0 && !masked;
    factor_ = product_is_score ? scale_.score : 1;
    for (int64_t r = 0; r < rows_; ++r) {
      const int64_t keys = keys_for(r, n);
      // `keep` is not in use yet: it lends its room to a row of bias.
      if (!product_is_score) {
        score_row(r).finish(scale_, j0, keys, s_.s + r * score_stride, s_.keep);
      }
      find_maximum(r, keys);
    }
    find_rescale();
    for (int64_t r = 0; r < rows_; ++r) exponentiate(r, j0, keys_for(r, n));
    add_outputs(j0, n, packed);
  }

  ScoreRow score_row(int64_t r) const { return ScoreRow(t_.call, t_.sequence, head(r), row(r)); }

  HWY_ATTR HWY_INLINE void find_maximum(int64_t r, int64_t n) {
    const Floats d;
    const float* s = s_.s + r * score_stride;
    auto maximum = hn::Set(d, minus_infinity);
    for (int64_t j = 0; j < padded(n); j += lanes()) {
      maximum = hn::Max(maximum, hn::Load(d, s + j));
    }
    s_.next[r] = std::max(s_.maximum[r], factor_ * hn::GetLane(hn::MaxOfLanes(d, maximum)));
  }

  /// rescale = exp(maximum - next). While a row has seen no key both are -inf: it counts from 0.
  HWY_ATTR void find_rescale() {
    const Floats d;
    const auto none = hn::Set(d, minus_infinity);
    for (int64_t r = 0; r < rows_; r += lanes()) {
      const auto next = hn::Load(d, s_.next + r);
      const auto base = hn::IfThenZeroElse(hn::Eq(next, none), next);
      const auto change = hn::Sub(hn::Load(d, s_.maximum + r), base);
      hn::Store(exp_negative(d, change), d, s_.rescale + r);
      hn::Store(next, d, s_.maximum + r);
      hn::Store(base, d, s_.next + r);
    }
  }

  /// s = exp(factor s - maximum), in the form that the product of P and V takes. The row's sum is
  /// taken before dropout.
  HWY_ATTR HWY_INLINE void exponentiate(int64_t r, int64_t j0, int64_t n) {
    const Floats d;
    float* s = s_.s + r * score_stride;
    float* sums = s_.sum + r * lane_pad;
    const auto base = hn::Set(d, s_.next[r]);
    using V = hn::Vec<Floats>;
    constexpr int vectors = lane_pad / static_cast<int64_t>(hn::MaxLanes(Floats()));
    V sum[vectors];  // the block's, as many as lane_pad on every target
    for (V& x : sum) x = hn::Zero(d);
    const bool drops = p_.dropout_p > 0;
    if (drops) score_row(r).keep(j0, n, s_.keep);
    const auto add = [&]<Exp exactness = Exp::full>(int64_t j, auto x, V& block) HWY_ATTR {
      const auto p = exp_negative<exactness>(d, x);
      block = hn::Add(block, p);
      return drops ? hn::Mul(p, hn::Load(d, s_.keep + j)) : p;
    };
    if constexpr (A::in_words) {
      const auto factor = hn::Set(d, factor_);
      // Not fused: the largest score must give 0, as its product with the factor was rounded, too.
      const auto p = [&](int64_t j) HWY_ATTR {
        const auto x = hn::Sub(hn::Mul(factor, hn::Load(d, s + j)), base);
        return add.template operator()<Exp::for_bfloat16>(j, x, sum[0]);
      };
      for (int64_t j = 0; j < padded(n); j += 2 * lanes()) {
        const auto first = p(j);
        const auto second = j + lanes() < padded(n) ? p(j + lanes()) : hn::Zero(d);
        A::store_weights(first, second, s, j);
      }
    } else {
      for (int64_t j = 0; j < padded(n); j += lane_pad) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
          float* at = s + j + v * lanes();
          hn::Store(add(j + v * lanes(), hn::Sub(hn::Load(d, at), base), sum[v]), d, at);
        }
      }
    }
    const auto rescale = hn::Set(d, s_.rescale[r]);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      float* at = sums + v * lanes();
      hn::Store(hn::MulAdd(rescale, hn::Load(d, at), sum[v]), d, at);
    }
  }

  /// Whether O is settled together with the row's sum; elsewhere its rounding is coarser anyway.
  bool keeps_rest() const { return p_.dtype == float32; }

  /// Adds the sums of the last blocks to the settled sums. When it happens depends on the keys'
  /// positions alone, and a row that saw none of these keys keeps its bits.
  HWY_ATTR void settle() {
    settled_ = true;
    for (int64_t r = 0; r < rows_; ++r) {
      if (s_.maximum[r] == minus_infinity) continue;
      float* settled = s_.settled + r * o_stride_;
      float* rest = s_.rest + r * o_stride_;
      if (s_.base[r] == minus_infinity) {
        s_.base[r] = s_.maximum[r];
        std::memset(settled, 0, o_stride_ * sizeof(float));
        std::memset(rest, 0, o_stride_ * sizeof(float));
      }
      // The settled sums are rescaled, and so rounded, only when the maximum has grown by much.
      // Otherwise the new sums are scaled instead.
      constexpr double much = 8;
      double growth = static_cast<double>(s_.maximum[r]) - s_.base[r];
      float back = 1;
      if (growth > much) {
        back = static_cast<float>(std::exp(-growth));
        s_.base[r] = s_.maximum[r];
        growth = 0;
      }
      const float factor = growth == 0 ? 1 : static_cast<float>(std::exp(growth));
      const Floats d;
      s_.settled_sum[r] = s_.settled_sum[r] * back +
                          static_cast<double>(factor) * sum_of(d, s_.sum + r * lane_pad, lane_pad);
      std::memset(s_.sum + r * lane_pad, 0, lane_pad * sizeof(float));
      if (keeps_rest()) settle_outputs(back, factor, s_.o + r * o_stride_, settled, rest);
    }
  }

  HWY_ATTR HWY_INLINE void settle_outputs(float back, float factor, float* o, float* settled,
                                          float* rest) const {
    const Floats d;
    for (int64_t c = 0; c < p_.head_dim_v; c += lanes()) {
      auto total = hn::Mul(hn::Load(d, settled + c), hn::Set(d, back));
      auto lost = hn::Mul(hn::Load(d, rest + c), hn::Set(d, back));
      add_kept(d, hn::Mul(hn::Load(d, o + c), hn::Set(d, factor)), total, lost);
      hn::Store(total, d, settled + c);
      hn::Store(lost, d, rest + c);
      hn::Store(hn::Zero(d), d, o + c);
    }
  }

  /// A row's final maximum, and its sum and O relative to that.
  struct WholeRow {
    float maximum;
    double sum;
    float* out;
  };
  WholeRow whole_row(int64_t r) const {
    float* out = s_.o + r * o_stride_;
    const float maximum = s_.maximum[r];
    if (s_.base[r] == minus_infinity) {
      return {maximum, sum_of(Floats(), s_.sum + r * lane_pad, lane_pad), out};
    }
    if (keeps_rest()) return {s_.base[r], s_.settled_sum[r], s_.settled + r * o_stride_};
    const double growth = static_cast<double>(maximum) - s_.base[r];
    const double before = growth == 0 ? 1 : std::exp(-growth);
    return {maximum, s_.settled_sum[r] * before + sum_of(Floats(), s_.sum + r * lane_pad, lane_pad),
            out};
  }

  /// O is normalized once, at the end.
  HWY_ATTR void store() {
    for (int64_t r = 0; r < rows_; ++r) {
      const auto [maximum, sum, o] = whole_row(r);
      const bool no_key = maximum == minus_infinity && sum == 0;
      if (no_key) std::memset(o, 0, o_stride_ * sizeof(float));  // 0 x NaN of V would be NaN
      if (t_.partial.out != nullptr) {
        const auto [row_out, row_sum] = t_.partial.row(r);
        store_row(float32, o, p_.head_dim_v, 1.0f, reinterpret_cast<char*>(row_out));
        *row_sum = {maximum, static_cast<float>(sum)};
      } else {
        const RowEnd end = end_row(maximum, sum, sink_of(t_.call, head(r)));
        const Call& c = t_.call;
        store_row(p_.dtype, o, p_.head_dim_v, end.factor,
                  query_row(c.out, t_.sequence, row(r), head(r)),
                  t_.plan.streams_out ? Store::past_caches : Store::as_usual);
        if (p_.wants.lse)
          *c.lse.at<float>(t_.sequence.index, t_.sequence.q.begin + row(r), head(r)) = end.lse();
      }
    }
  }

  static HWY_INLINE int64_t lanes() { return static_cast<int64_t>(hn::Lanes(Floats())); }

  const ForwardTile& t_;
  const ForwardScratch& s_;
  const Problem& p_;
  const bool in_place_;  ///< K and V are read where they lie
  const Scale scale_;
  const bool plain_;  ///< a score is a multiple of the product, but for the mask
  const int64_t rows_;
  const int64_t q_stride_;
  const int64_t o_stride_;
  const int64_t* reach_ = nullptr;  ///< of the present block; null: all of it
  float factor_ = 1;                ///< what its products lack; 1 but for pairs
  bool settled_ = false;            ///< some sums are in the settled ones
};

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
