// The forward pass of one tile: Algorithm 1 of FlashAttention-2, on registers and caches of a CPU.
//
// Cost of a tile of M rows for a block of N keys: 2 M N (D + Dv) multiply-adds; it reads the block
// (D + Dv) N floats from L2 or beyond and keeps Q, S and O in L2. At M = 96 and 200 GFLOP/s a core
// reads 4 GB/s, so memory does not matter; what does is the register tile and some 20 vector
// instructions of softmax for each 16 scores beside their 2 (D + Dv) / 2 multiply-adds.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/forward_simd.cpp"
#include "hwy/foreach_target.h"  // must come first
// clang-format off
#include "hwy/highway.h"
#include "cpu/amx-inl.hpp"
#include "cpu/direct-inl.hpp"
#include "cpu/gemm-inl.hpp"
#include "cpu/math-inl.hpp"
#include "cpu/pairs-inl.hpp"
#include "cpu/rows-inl.hpp"
#include "cpu/score-inl.hpp"
// clang-format on

#include <cmath>
#include <limits>

#include "cpu/kernels.hpp"
#include "cpu/target.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// Keys [key, key + keys) as K^T [head_dim][score_stride] and V [keys][row_stride(head_dim_v)]; in
/// pairs half as many rows of each, V's for tiles up to 16 of 0 more.
HWY_ATTR void pack_keys(const Call& call, const Sequence& seq, int64_t head_k, int64_t key,
                        int64_t keys, float* packed) {
  const Problem& p = call.problem;
  const auto k = [&](int64_t j) { return key_row(call.k, seq, key + j, head_k); };
  if (packs_pairs(p)) {
    const auto v = [&](int64_t j) { return key_row(call.v, seq, key + j, head_k); };
    Pair* v_pairs = as_pairs(packed + p.head_dim * score_stride);
    transpose_pairs(k, keys, p.head_dim, as_pairs(packed), score_stride);
    interleave_rows(v, keys, p.head_dim_v, v_pairs, row_stride(p.head_dim_v));
    if (by_tiles(p)) clear_to_tile(keys, v_pairs, row_stride(p.head_dim_v));
    return;
  }
  load_transposed(p.dtype, k, keys, p.head_dim, 1.0f, packed, score_stride);
  float* v = packed + p.head_dim * score_stride;
  for (int64_t j = 0; j < keys; ++j) {
    load_row(p.dtype, key_row(call.v, seq, key + j, head_k), p.head_dim_v, 1.0f,
             v + j * row_stride(p.head_dim_v));
  }
}

void Pack(const CpuPlan& plan, const Call& call, const Sequence& seq, int64_t head_k, int64_t block,
          float* packed) {
  const int64_t keys = plan.tuning.forward_keys;
  pack_keys(call, seq, head_k, block * keys, std::min(keys, seq.k.len - block * keys),
            packed + block * packed_block_floats(plan.problem, keys));
}

/// What a row's sum of exp(s - maximum) and a sink, one more logit of the denominator, come to.
struct RowEnd {
  float top;
  float total;   ///< exp(LSE - top)
  float factor;  ///< turns the sum of exp(s - maximum) V into the output
  // mutant "lse": top + std::log(total) => top
  float lse() const { return top + std::log(total); }
};
RowEnd end_row(float maximum, double sum, float sink) {
  const float top = std::max(maximum, sink);
  if (top == minus_infinity && sum == 0) return {minus_infinity, 1, 0};
  if (sink == minus_infinity) return {top, static_cast<float>(sum), static_cast<float>(1 / sum)};
  // In float64, where the difference of two logits is exact.
  const double from_keys = std::exp(static_cast<double>(maximum) - top);
  const double total = sum * from_keys + std::exp(static_cast<double>(sink) - top);
  return {top, static_cast<float>(total), static_cast<float>(from_keys / total)};
}

float sink_of(const Call& call, int64_t head) {
  // mutant "sinks": !call.problem.score.sinks => true
  if (!call.problem.score.sinks) return minus_infinity;
  return load_number(call.problem.score.sinks_dtype, call.sinks.data,
                     call.sinks.offset(0, 0, head));
}

class TileForward {
 public:
  TileForward(const ForwardTile& task, const ForwardScratch& scratch)
      : t_(task),
        s_(scratch),
        p_(task.plan.problem),
        in_place_(task.in_place),
        by_tiles_(!in_place_ && by_tiles(p_)),
        in_pairs_(by_tiles_ || (in_pairs(p_) && (!in_place_ || pairs_in_place()))),
        scale_(p_.score.scale, in_pairs_),
        plain_((in_pairs_ ? scale_.score > 0 : scale_.score == 1) && p_.score.softcap == 0 &&
               !p_.score.alibi && !p_.score.bias),
        rows_(task.tile.heads * task.tile.rows),
        q_stride_(row_stride(in_place_   ? p_.head_dim
                             : by_tiles_ ? p_.head_dim / 2
                                         : task.plan.packed_rows)),
        o_stride_(row_stride(p_.head_dim_v)) {}

  HWY_ATTR void run() {
#if FA_CPU_HAS_PAIRS
    const TileRegisters registers(by_tiles_);
#endif
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
    if (by_tiles_ || (in_place_ && in_pairs_)) {
      for (int64_t r = 0; r < rows_; ++r) {
        std::memcpy(s_.q + r * q_stride_, row_at(r), p_.head_dim * bytes_of(p_.dtype));
      }
    } else if (in_place_) {
      for (int64_t r = 0; r < rows_; ++r) {
        load_row(p_.dtype, row_at(r), p_.head_dim, scale_.query, s_.q + r * q_stride_);
      }
    } else if (in_pairs_) {
      transpose_pairs(row_at, rows_, p_.head_dim, as_pairs(s_.q), q_stride_);
    } else {
      load_transposed(p_.dtype, row_at, rows_, p_.head_dim, scale_.query, s_.q, q_stride_);
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
    pack_keys(t_.call, t_.sequence, t_.head_k, j0, n, s_.block);
    return s_.block;
  }

  FewRows few_rows() const { return {t_.heads_k, rows_ / t_.heads_k}; }

  template <typename T>
  InPlace<T> rows_in_place(const Rows& rows) const {
    const char* first = key_row(rows, t_.sequence, 0, t_.head_k);
    return {reinterpret_cast<const T*>(first), rows.row, rows.head};
  }

  bool pairs_in_place() const {
    return p_.head_dim % (2 * lane_pad) == 0 && p_.head_dim_v % (2 * lane_pad) == 0;
  }

  /// multiply(how, d): pairs, or vectors that head_dim is a multiple of.
  template <class Multiply>
  HWY_INLINE void in_vectors(int64_t width, const Multiply& multiply) const {
#if FA_CPU_HAS_PAIRS
    if (in_pairs_) return multiply(Paired(), Floats());
#endif
    with_type(p_.dtype, [&]<typename T>(T) {
      if constexpr (hn::MaxLanes(Floats()) > hn::MaxLanes(D8())) {
        if (width % lanes() != 0) return multiply(Widened<D8, T>(), D8());
      }
      return multiply(Widened<Floats, T>(), Floats());
    });
  }

  /// How many of the keys [j0, j0 + n) count for each group of group_rows() rows: up to the last
  /// one that some row of it sees. Under a causal mask a tile's last blocks are half empty, which
  /// at 1k keys is 9% of all products.
  const int64_t* find_reach(int64_t j0, int64_t n) {
    for (int64_t r0 = 0; r0 < rows_; r0 += group_rows()) {
      int64_t end = 0;
      for (int64_t r = r0; r < std::min(r0 + group_rows(), rows_); ++r) {
        end = std::max<int64_t>(end, keys_of_row(row(r)).end);
      }
      s_.reach[r0 / group_rows()] = std::clamp<int64_t>(end - j0, 0, n);
    }
    return s_.reach;
  }
  int64_t group_rows() const { return by_tiles_ ? tile_span : tile_rows; }
  int64_t keys_for(int64_t r, int64_t n) const {
    return reach_ != nullptr ? reach_[r / group_rows()] : n;
  }

  /// S = Q K^T of keys [j0, j0 + n).
  HWY_ATTR HWY_INLINE void form_scores(int64_t j0, int64_t n, const float* packed) {
#if FA_CPU_HAS_PAIRS
    if (by_tiles_) {
      tile_product(rows_, n, p_.head_dim, as_pairs(s_.q), q_stride_, as_pairs(packed), score_stride,
                   s_.s, score_stride, Accumulate::store, {.columns = reach_});
      return;
    }
#endif
    if (!in_place_) {
      product<Layout::transposed>(in_pairs_, rows_, n, p_.head_dim, s_.q, q_stride_, packed,
                                  score_stride, s_.s, score_stride,
                                  {Accumulate::store, nullptr, score_run}, {.columns = reach_});
      return;
    }
    in_vectors(p_.head_dim, [&]<class Use>(Use use, auto d) {
      scores_in_place(use, d, few_rows(), n, p_.head_dim, s_.q, q_stride_,
                      rows_in_place<typename Use::Number>(t_.call.k), j0, s_.s);
    });
  }

  /// O = rescale O + P V.
  HWY_ATTR HWY_INLINE void add_outputs(int64_t j0, int64_t n, const float* packed) {
#if FA_CPU_HAS_PAIRS
    if (by_tiles_) {
      rescale_outputs();
      tile_product(rows_, p_.head_dim_v, n, as_pairs(s_.s), score_stride,
                   as_pairs(packed + p_.head_dim * score_stride), o_stride_, s_.o, o_stride_,
                   Accumulate::add, {.depth = reach_});
      return;
    }
#endif
    if (!in_place_) {
      // mutant "online softmax: rescale of O": Accumulate::rescale => Accumulate::add
      product<Layout::scores>(in_pairs_, rows_, p_.head_dim_v, n, s_.s, score_stride,
                              packed + p_.head_dim * score_stride, o_stride_, s_.o, o_stride_,
                              {Accumulate::rescale, s_.rescale, run_of(p_)}, {.depth = reach_});
      return;
    }
    in_vectors(p_.head_dim_v, [&]<class Use>(Use use, auto d) {
      outputs_in_place(use, d, few_rows(), n, p_.head_dim_v, s_.s,
                       rows_in_place<typename Use::Number>(t_.call.v), j0, s_.rescale, s_.o,
                       s_.settled, o_stride_);
    });
  }

  HWY_ATTR HWY_INLINE void rescale_outputs() {
    const Floats d;
    for (int64_t r = 0; r < rows_; ++r) {
      if (s_.rescale[r] == 1) continue;
      const auto factor = hn::Set(d, s_.rescale[r]);
      float* o = s_.o + r * o_stride_;
      for (int64_t c = 0; c < p_.head_dim_v; c += lanes()) {
        hn::Store(hn::Mul(factor, hn::Load(d, o + c)), d, o + c);
      }
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

  /// s = exp(factor s - maximum), as the product of P and V takes it; its sum is taken before
  /// dropout.
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
#if FA_CPU_HAS_PAIRS
    if (in_pairs_) {
      const auto factor = hn::Set(d, factor_);
      // Not fused: the largest score must give 0, as its product with the factor was rounded, too.
      const auto p = [&](int64_t j) HWY_ATTR {
        const auto x = hn::Sub(hn::Mul(factor, hn::Load(d, s + j)), base);
        return add.template operator()<Exp::for_bfloat16>(j, x, sum[0]);
      };
      for (int64_t j = 0; j < padded(n); j += 2 * lanes()) {
        const auto first = p(j);
        const auto second = j + lanes() < padded(n) ? p(j + lanes()) : hn::Zero(d);
        hn::Store(narrow(first, second), Pairs(), as_pairs(s) + j / 2);
      }
    } else
#endif
    {
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

  /// Adds what the last blocks gave to the settled sums. Where it happens depends on the keys'
  /// numbers alone, and a row that saw none of them keeps its bits.
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
      // The settled sums are rescaled, and so rounded, only when the maximum has grown by much;
      // else it is what comes to them that is multiplied.
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

  /// The whole of a row: its maximum, and the sum and O that are taken against it.
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
  const bool by_tiles_;  ///< bfloat16 is multiplied as it is, by AMX's tiles,
  const bool in_pairs_;  ///< or so or in vectors
  const Scale scale_;
  const bool plain_;  ///< a score is a multiple of the product, but for the mask
  const int64_t rows_;
  const int64_t q_stride_;
  const int64_t o_stride_;
  const int64_t* reach_ = nullptr;  ///< of the present block; null: all of it
  float factor_ = 1;                ///< what its products lack; 1 but for pairs
  bool settled_ = false;            ///< some sums are in the settled ones
};

void TilePass(const ForwardTile& task, const ForwardScratch& scratch) {
  TileForward(task, scratch).run();
}

/// out = sum over chunks of exp(maximum_c - maximum) out_c, divided by the same of their sums;
/// chunks in their order, the sink once.
HWY_ATTR void Combine(const CpuPlan& plan, const Call& call, const Sequence& seq, int64_t head_k,
                      int64_t chunks, const float* partial_out, const RowSum* partial_sums,
                      const ForwardScratch& scratch) {
  const Floats d;
  const Problem& p = plan.problem;
  const int64_t width = padded(p.head_dim_v);
  const int64_t rows = p.group() * seq.q.len;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t head = head_k * p.group() + r / seq.q.len;
    const int64_t i = r % seq.q.len;
    float maximum = minus_infinity;
    for (int64_t c = 0; c < chunks; ++c) {
      maximum = std::max(maximum, partial_sums[c * rows + r].maximum);
    }
    double sum = 0;
    std::memset(scratch.o, 0, width * sizeof(float));
    std::memset(scratch.rest, 0, width * sizeof(float));
    for (int64_t c = 0; c < chunks; ++c) {
      const RowSum chunk = partial_sums[c * rows + r];
      if (chunk.maximum == minus_infinity && chunk.sum == 0) continue;
      // mutant "join of chunks": std::exp(chunk.maximum - maximum) => 1.0f
      const float weight = std::exp(chunk.maximum - maximum);
      sum += static_cast<double>(weight) * chunk.sum;
      const float* out = partial_out + (c * rows + r) * width;
      for (int64_t x = 0; x < width; x += static_cast<int64_t>(hn::Lanes(d))) {
        auto total = hn::Load(d, scratch.o + x);
        auto rest = hn::Load(d, scratch.rest + x);
        add_kept(d, hn::Mul(hn::Set(d, weight), hn::Load(d, out + x)), total, rest);
        hn::Store(total, d, scratch.o + x);
        hn::Store(rest, d, scratch.rest + x);
      }
    }
    // mutant "sinks: chunks of keys": sink_of(call, head) => minus_infinity
    const RowEnd end = end_row(maximum, sum, sink_of(call, head));
    store_row(p.dtype, scratch.o, p.head_dim_v, end.factor, query_row(call.out, seq, i, head));
    if (p.wants.lse) *call.lse.at<float>(seq.index, seq.q.begin + i, head) = end.lse();
  }
}

HWY_ATTR void Merge(const MergeCall& call, int64_t batch, int64_t head) {
  const auto element = [&](const Rows& rows, int64_t i) {
    return rows.data + rows.offset(batch, i, head) * bytes_of(rows.dtype);
  };
  // -inf for a part without keys, for which flash_attn 2 writes +inf.
  const auto statistic = [&](const Rows& rows, int64_t i) {
    const float lse = *rows.at<float>(batch, i, head);
    return lse == -minus_infinity ? minus_infinity : lse;
  };
  constexpr int64_t piece = 64;  // a row goes through in pieces: any head_dim, no memory
  HWY_ALIGN float a[piece];
  HWY_ALIGN float b[piece];
  for (int64_t i = 0; i < call.seqlen; ++i) {
    const float lse_a = statistic(call.lse_a, i), lse_b = statistic(call.lse_b, i);
    const float top = std::max(lse_a, lse_b);
    const bool empty = lse_a == minus_infinity && lse_b == minus_infinity;
    const float from_a = empty ? 0 : std::exp(lse_a - top);
    const float from_b = empty ? 0 : std::exp(lse_b - top);
    const float total = empty ? 1 : from_a + from_b;
    for (int64_t x = 0; x < call.head_dim; x += piece) {
      const int64_t n = std::min(piece, call.head_dim - x);
      const int64_t bytes = x * bytes_of(call.out.dtype);
      const auto load = [&](const Rows& part, float lse, float* to) {
        if (lse == minus_infinity) {  // absent, whatever it holds
          std::fill_n(to, n, 0.0f);
        } else {
          load_row(part.dtype, element(part, i) + bytes, n, 1.0f, to);
        }
      };
      load(call.out_a, lse_a, a);
      load(call.out_b, lse_b, b);
      // mutant "merge" of capi_test: b[y] * from_b => 0
      for (int64_t y = 0; y < n; ++y) a[y] = (a[y] * from_a + b[y] * from_b) / total;
      store_row(call.out.dtype, a, n, 1.0f, element(call.out, i) + bytes);
    }
    *call.lse.at<float>(batch, i, head) = empty ? minus_infinity : top + std::log(total);
  }
}

ForwardKernels GetForwardKernels() { return {Pack, TilePass, Combine, Merge}; }

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fa::cpu {

HWY_EXPORT(GetForwardKernels);

const ForwardKernels& forward_kernels() {
  static const ForwardKernels kernels = HWY_DISPATCH_TABLE(GetForwardKernels)[target_index()]();
  return kernels;
}

}  // namespace fa::cpu
#endif
