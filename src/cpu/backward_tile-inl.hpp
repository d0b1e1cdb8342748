// A tile of query rows and a block of keys in the backward pass: loading them, forming P and dS,
// and the three products of those.
#if defined(FA_CPU_BACKWARD_TILE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_BACKWARD_TILE_INL
#undef FA_CPU_BACKWARD_TILE_INL
#else
#define FA_CPU_BACKWARD_TILE_INL
#endif

#include <cstring>
#include <limits>

#include "cpu/arithmetic/tiles-inl.hpp"
#include "cpu/gemm-inl.hpp"
#include "cpu/kernels.hpp"
#include "cpu/math-inl.hpp"
#include "cpu/pairs-inl.hpp"
#include "cpu/rows-inl.hpp"
#include "cpu/score-inl.hpp"
#include "hwy/highway.h"
#include "plan/cpu/plan.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

inline constexpr float infinity = std::numeric_limits<float>::infinity();

HWY_INLINE int64_t lanes() { return static_cast<int64_t>(hn::Lanes(Floats())); }

/// Packed key blocks of a slab.
struct KeyBlock {
  int64_t key;  ///< first key, in the sequence
  int64_t keys;
  float* k_t;
  float* v_t;
  float* k;
  float* dk;
  float* dv;
};

inline KeyBlock key_block(const CpuPlan& plan, const BackwardScratch& s, int64_t slab_begin,
                          int64_t key, int64_t slab_end) {
  const Problem& p = plan.problem;
  const int64_t block = (key - slab_begin) / plan.tuning.backward_keys;
  const int64_t first = key - slab_begin;
  return {key,
          std::min(plan.tuning.backward_keys, slab_end - key),
          s.k_t + block * p.head_dim * score_stride,
          s.v_t + block * p.head_dim_v * score_stride,
          s.k + first * row_stride(p.head_dim),
          s.dk + first * row_stride(p.head_dim),
          s.dv + first * row_stride(p.head_dim_v)};
}

/// K^T, V^T and K's rows, which dQ is made of. In words half as many rows of each.
template <class A>
HWY_ATTR void pack_key_block(const Call& call, const Sequence& seq, int64_t head_k,
                             const KeyBlock& block) {
  const Problem& p = call.problem;
  const auto key = [&](int64_t j) { return key_row(call.k, seq, block.key + j, head_k); };
  const auto value = [&](int64_t j) { return key_row(call.v, seq, block.key + j, head_k); };
  A::pack_transposed(p.dtype, key, block.keys, p.head_dim, block.k_t);
  A::pack_transposed(p.dtype, value, block.keys, p.head_dim_v, block.v_t);
  A::pack_rows(p.dtype, key, block.keys, p.head_dim, block.k);
}

/// The number whose gradient dS is: the product of q and k (a scale up to 1 included), or the score
/// that the softmax takes (for the bias).
enum class Of : uint8_t { product, softmax };

/// A loaded tile of query rows, for the main pass and for dbias. A: an arithmetic
/// (arithmetic/widened-inl.hpp).
template <class A>
class BackwardTile {
 public:
  BackwardTile(const CpuPlan& plan, const Call& call, const Sequence& seq, int64_t first_head,
               const Tile& tile, const BackwardScratch& scratch, const BackwardShared& shared)
      : plan_(plan),
        call_(call),
        seq_(seq),
        tile_(tile),
        s_(scratch),
        shared_(shared),
        p_(plan.problem),
        scale_(p_.score.scale, A::name),
        rows_(tile.heads * tile.rows),
        first_head_(first_head + tile.head) {}

  HWY_ATTR void load() const {
    for (int64_t r = 0; r < rows_; ++r) {
      const int64_t at = head(r) * p_.q.tokens + token(p_, seq_) + row(r);
      s_.lse[r] = shared_.lse[at];  // +inf: exp(s - inf) = 0
      s_.delta[r] = shared_.delta[at];
    }
    const auto q = [&](int64_t r) { return query_row(call_.q, seq_, row(r), head(r)); };
    // Rows without a key have no gradient, whatever dO holds.
    const auto dout = [&](int64_t r) -> const char* {
      return s_.lse[r] == infinity ? row_of_0 : query_row(call_.dout, seq_, row(r), head(r));
    };
    A::load_queries_and_rows(p_.dtype, q, rows_, p_.head_dim, scale_.query, s_.q_t,
                             t_stride(p_.head_dim), s_.q);
    A::load_queries_and_rows(p_.dtype, dout, rows_, p_.head_dim_v, 1.0f, s_.dout_t,
                             t_stride(p_.head_dim_v), s_.dout);
  }

  /// P (after dropout) and dS of the tile for one block of keys, into scratch.
  HWY_ATTR void score_gradients(const KeyBlock& block, Of of) {
    find_reach(block);
    A::scores(rows_, block.keys, p_.head_dim, s_.q_t, t_stride(p_.head_dim), block.k_t, s_.p,
              reach_);
    A::scores(rows_, block.keys, p_.head_dim_v, s_.dout_t, t_stride(p_.head_dim_v), block.v_t,
              s_.ds, reach_);
    for (int64_t r = 0; r < rows_; ++r) finish_row(r, block, of);
  }

  /// dV += P^T dO, dK += dS^T Q, dQ += dS K.
  HWY_ATTR void add_gradients(const KeyBlock& block) const {
    const float* ds_by_row = A::narrow_gradients(s_, rows_, block.keys);
    const int64_t run = run_of(p_);
    // mutant "dv": s_.p => s_.ds
    A::add_to_keys(block.keys, p_.head_dim_v, rows_, s_.p, s_.dout, block.dv, run, first_row_,
                   s_.words_t);
    A::add_to_keys(block.keys, p_.head_dim, rows_, ds_by_row, s_.q, block.dk, run, first_row_,
                   s_.words_t);
    A::add_to_queries(rows_, p_.head_dim, block.keys, s_.ds, block.k, s_.dq,
                      {Accumulate::add, nullptr, run}, reach_);
  }

  /// How many of the keys [begin, end) reach up to the last one that some row of the tile sees.
  int64_t keys_in_sight(int64_t begin, int64_t end) const {
    if (keys_of_row(tile_.row).begin >= end) return 0;
    const int64_t last = keys_of_row(tile_.row + tile_.rows - 1).end;
    return std::max<int64_t>(0, std::min(last, end) - begin);
  }

  int64_t rows() const { return rows_; }
  int64_t head(int64_t r) const { return first_head_ + r / tile_.rows; }
  int64_t row(int64_t r) const { return tile_.row + r % tile_.rows; }
  const Scale& scale() const { return scale_; }

 private:
  mask::KeyRange keys_of_row(int64_t i) const {
    return mask::key_range(i, seq_.q.len, seq_.k.len, p_.score.window_left, p_.score.window_right);
  }

  /// Row stride of Q's and dO's second copies.
  int64_t t_stride(int64_t width) const {
    return A::query_stride(width, plan_.tuning.backward_rows);
  }

  /// Finds which products of a block a mask leaves out. For each group of rows: how many keys
  /// count, up to the last one that some row of the group sees. For each group of keys: the first
  /// row that counts. Both are null if the tile's first row sees the block's last key. At 1k keys
  /// under a causal mask this saves 8% of all products.
  void find_reach(const KeyBlock& block) {
    reach_ = first_row_ = nullptr;
    if (keys_of_row(tile_.row).end >= block.key + block.keys) return;
    constexpr int64_t group = A::group_rows;  // of rows, and of keys
    std::fill_n(s_.first_row, ceil_div(block.keys, group), (rows_ - 1) / group * group);
    for (int64_t r0 = 0; r0 < rows_; r0 += group) {
      int64_t reach = 0;
      for (int64_t r = r0; r < std::min(r0 + group, rows_); ++r) {
        reach = std::max<int64_t>(reach, keys_of_row(row(r)).end - block.key);
      }
      reach = std::min(reach, block.keys);
      s_.reach[r0 / group] = reach;
      for (int64_t g = 0; g < ceil_div(reach, group); ++g) {
        s_.first_row[g] = std::min(s_.first_row[g], r0);
      }
    }
    reach_ = s_.reach;
    first_row_ = s_.first_row;
  }

  HWY_ATTR HWY_INLINE void finish_row(int64_t r, const KeyBlock& block, Of of) const {
    const Floats d;
    const ScoreRow score(call_, seq_, head(r), row(r));
    float* p_row = s_.p + r * score_stride;
    float* ds_row = s_.ds + r * score_stride;
    if (s_.lse[r] == infinity) {  // no key: nothing of V may come through dP
      std::memset(p_row, 0, padded(block.keys) * sizeof(float));
      std::memset(ds_row, 0, padded(block.keys) * sizeof(float));
      return;
    }
    const int64_t keys = reach_ != nullptr ? reach_[r / A::group_rows] : block.keys;
    const bool sloped = score.has_slope() && of == Of::product;
    score.finish(scale_, block.key, keys, p_row, s_.keep, sloped ? s_.slope : nullptr);
    const auto lse = hn::Set(d, s_.lse[r]);
    const auto delta = hn::Set(d, s_.delta[r]);
    // dS K of huge keys would overflow before a small scale, which a tiny K would lose digits by:
    // it is dS that it is multiplied into.
    const auto scale = hn::Set(d, of == Of::product ? scale_.query : 1.0f);
    const bool dropout = p_.dropout_p > 0;
    if (dropout) score.keep(block.key, keys, s_.keep);
    for (int64_t j = 0; j < padded(keys); j += lanes()) {
      // At most 1 by its meaning; the product's rounding must not make it infinite at huge scores.
      const auto x = hn::Min(hn::Zero(d), hn::Sub(hn::Load(d, p_row + j), lse));
      auto p = exp_negative(d, x);
      auto dp = hn::Load(d, ds_row + j);
      const auto undropped = p;
      if (dropout) {
        const auto keep = hn::Load(d, s_.keep + j);
        // mutant "dropout of dP": hn::Mul(dp, keep) => dp
        dp = hn::Mul(dp, keep);
        // mutant "dropout of P in dv": hn::Mul(p, keep) => p
        p = hn::Mul(p, keep);
      }
      auto ds = hn::Mul(undropped, hn::Sub(dp, delta));
      // mutant "derivative of softcap": sloped => false
      if (sloped) ds = hn::Mul(ds, hn::Load(d, s_.slope + j));
      hn::Store(p, d, p_row + j);
      // mutant "small scale into dS" of small_numbers_test: hn::Mul(ds, scale) => ds
      hn::Store(hn::Mul(ds, scale), d, ds_row + j);
    }
    const size_t beyond = (padded(block.keys) - padded(keys)) * sizeof(float);
    std::memset(p_row + padded(keys), 0, beyond);
    std::memset(ds_row + padded(keys), 0, beyond);
  }

  const CpuPlan& plan_;
  const Call& call_;
  const Sequence& seq_;
  const Tile tile_;
  const BackwardScratch& s_;
  const BackwardShared& shared_;
  const Problem& p_;
  const Scale scale_;
  const int64_t rows_;
  const int64_t first_head_;
  const int64_t* reach_ = nullptr;      ///< of the present block; null: all of it
  const int64_t* first_row_ = nullptr;  ///< the same
};

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
