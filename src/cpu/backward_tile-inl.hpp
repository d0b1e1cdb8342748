// A tile of query rows and a block of keys in the backward pass: loaded, their P and dS, and the
// three products that these go into.
#if defined(FA_CPU_BACKWARD_TILE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FA_CPU_BACKWARD_TILE_INL
#undef FA_CPU_BACKWARD_TILE_INL
#else
#define FA_CPU_BACKWARD_TILE_INL
#endif

#include <array>
#include <cstring>
#include <limits>

#include "cpu/amx-inl.hpp"
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

/// K^T, V^T and K's rows, which dQ is made of. In pairs half as many rows of each.
HWY_ATTR inline void pack_key_block(const Call& call, const Sequence& seq, int64_t head_k,
                                    const KeyBlock& block) {
  const Problem& p = call.problem;
  const auto key = [&](int64_t j) { return key_row(call.k, seq, block.key + j, head_k); };
  const auto value = [&](int64_t j) { return key_row(call.v, seq, block.key + j, head_k); };
  if (packs_pairs(p)) {
    transpose_pairs(key, block.keys, p.head_dim, as_pairs(block.k_t), score_stride);
    transpose_pairs(value, block.keys, p.head_dim_v, as_pairs(block.v_t), score_stride);
    interleave_rows(key, block.keys, p.head_dim, as_pairs(block.k), row_stride(p.head_dim));
    if (by_tiles(p)) clear_to_tile(block.keys, as_pairs(block.k), row_stride(p.head_dim));
    return;
  }
  load_transposed(p.dtype, key, block.keys, p.head_dim, 1.0f, block.k_t, score_stride);
  load_transposed(p.dtype, value, block.keys, p.head_dim_v, 1.0f, block.v_t, score_stride);
  for (int64_t j = 0; j < block.keys; ++j) {
    load_row(p.dtype, key(j), p.head_dim, 1.0f, block.k + j * row_stride(p.head_dim));
  }
}

/// A tile of query rows, loaded: what both the main pass and dbias need of it.
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
        by_tiles_(by_tiles(p_)),
        in_pairs_(packs_pairs(p_)),
        scale_(p_.score.scale, in_pairs_),
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
    load_rows(q, p_.head_dim, scale_.query, s_.q, s_.q_t);
    load_rows(dout, p_.head_dim_v, 1.0f, s_.dout, s_.dout_t);
  }

  /// Gradient of which score: the product of q and k, with the scale up to 1, or what the softmax
  /// was taken of (bias).
  enum class Of : uint8_t { product, softmax };

  /// P (after dropout) and dS of the tile for one block of keys, into scratch.
  HWY_ATTR void score_gradients(const KeyBlock& block, Of of) {
    find_reach(block);
    const auto score = [&](int64_t width, const float* rows_t, const float* keys_t, float* out) {
      const Wanted wanted{.columns = reach_};
#if FA_CPU_HAS_PAIRS
      if (by_tiles_) {
        tile_product(rows_, block.keys, width, as_pairs(rows_t), t_stride(width), as_pairs(keys_t),
                     score_stride, out, score_stride, Accumulate::store, wanted);
        return;
      }
#endif
      product<Layout::transposed>(in_pairs_, rows_, block.keys, width, rows_t, t_stride(width),
                                  keys_t, score_stride, out, score_stride,
                                  {Accumulate::store, nullptr, score_run}, wanted);
    };
    score(p_.head_dim, s_.q_t, block.k_t, s_.p);
    score(p_.head_dim_v, s_.dout_t, block.v_t, s_.ds);
    for (int64_t r = 0; r < rows_; ++r) finish_row(r, block, of);
  }

  /// dV += P^T dO, dK += dS^T Q, dQ += dS K.
  HWY_ATTR void add_gradients(const KeyBlock& block) const {
    const int64_t width = row_stride(p_.head_dim);
    const int64_t width_v = row_stride(p_.head_dim_v);
    if (in_pairs_) narrow_gradients(block.keys);
#if FA_CPU_HAS_PAIRS
    if (by_tiles_) {
      const auto add = [&](int64_t m, int64_t n, int64_t depth, const Pair* a, int64_t a_stride,
                           const float* b, float* c, Wanted wanted) {
        tile_product(m, n, depth, a, a_stride, as_pairs(b), row_stride(n), c, row_stride(n),
                     Accumulate::add, wanted);
      };
      const Wanted from_first{.first = first_row_};
      add(block.keys, p_.head_dim_v, rows_, by_keys(s_.p, block.keys), words_stride(), s_.dout,
          block.dv, from_first);
      add(block.keys, p_.head_dim, rows_, by_keys(s_.ds_pairs, block.keys), words_stride(), s_.q,
          block.dk, from_first);
      add(rows_, p_.head_dim, block.keys, as_pairs(s_.ds), score_stride, block.k, s_.dq,
          {.depth = reach_});
      return;
    }
#endif
    const Accumulate in_runs{Accumulate::add, nullptr, run_of(p_)};
    // mutant "dv": s_.p => s_.ds
    product<Layout::transposed>(in_pairs_, block.keys, p_.head_dim_v, rows_, s_.p, score_stride,
                                s_.dout, width_v, block.dv, width_v, in_runs,
                                {.first = first_row_});
    product<Layout::transposed>(in_pairs_, block.keys, p_.head_dim, rows_,
                                in_pairs_ ? s_.ds_pairs : s_.ds, score_stride, s_.q, width,
                                block.dk, width, in_runs, {.first = first_row_});
    product<Layout::scores>(in_pairs_, rows_, p_.head_dim, block.keys, s_.ds, score_stride, block.k,
                            width, s_.dq, width, in_runs, {.depth = reach_});
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
    return row_stride(by_tiles_ ? width / 2 : plan_.tuning.backward_rows);
  }
  /// Rows, or keys, whose products begin or end at the same key, or row.
  int64_t group_rows() const { return by_tiles_ ? tile_span : tile_rows; }

  /// Where the tile's first row sees less of a block than its end: how many keys count for each
  /// group of rows, up to the last one that some row of it sees, and the first row that counts for
  /// each group of keys. At 1k keys under a causal mask 8% of all products are left out by it.
  void find_reach(const KeyBlock& block) {
    reach_ = first_row_ = nullptr;
    if (keys_of_row(tile_.row).end >= block.key + block.keys) return;
    const int64_t group = group_rows();
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

  /// Rows of q or dO, and scale times their transpose; for tiles pairs of two rows, and rows as
  /// they are.
  template <class RowAt>
  HWY_ATTR HWY_INLINE void load_rows(const RowAt& row_at, int64_t width, float scale, float* out,
                                     float* transposed) const {
    if (in_pairs_) {
      interleave_rows(row_at, rows_, width, as_pairs(out), row_stride(width));
      if (!by_tiles_) {
        transpose_pairs(row_at, rows_, width, as_pairs(transposed), t_stride(width));
        return;
      }
      clear_to_tile(rows_, as_pairs(out), row_stride(width));
      for (int64_t r = 0; r < rows_; ++r) {
        std::memcpy(transposed + r * t_stride(width), row_at(r), width * bytes_of(p_.dtype));
      }
      return;
    }
    for (int64_t r = 0; r < rows_; ++r) {
      load_row(p_.dtype, row_at(r), width, 1.0f, out + r * row_stride(width));
    }
    const auto loaded = [&](int64_t r) {
      return reinterpret_cast<const char*>(out + r * row_stride(width));
    };
    load_transposed(float32, loaded, rows_, width, scale, transposed, t_stride(width));
  }

  /// Words of pairs of rows as tiles take them: [keys up to a whole tile][words_stride()].
  HWY_ATTR const Pair* by_keys(const float* words, int64_t keys) const {
    const D8 d;
    const auto row_at = [&](int64_t r) {
      return reinterpret_cast<const char*>(words + r * score_stride);
    };
    const auto load = [&](const float* row, int64_t c) { return hn::LoadU(d, row + c); };
    transpose_rows<float>(row_at, ceil_div(rows_, 2), padded(keys), load, s_.words_t,
                          words_stride());
    std::memset(s_.words_t + padded(keys) * words_stride(), 0,
                (in_tiles(keys) - padded(keys)) * words_stride() * sizeof(float));
    return as_pairs(s_.words_t);
  }
  int64_t words_stride() const { return row_stride(ceil_div(rows_, 2)); }

  /// P and dS as pairs of two rows each, and dS as pairs of two keys, in place but for the second.
  HWY_ATTR void narrow_gradients([[maybe_unused]] int64_t keys) const {
#if FA_CPU_HAS_PAIRS
    const Floats d;
    const Pairs dp;
    using Two = std::array<hn::Vec<Floats>, 2>;
    const auto load = [&](const float* x, int64_t r, int64_t j) HWY_ATTR {
      const auto at = [&](int64_t key) HWY_ATTR {
        return r < rows_ && key < padded(keys) ? hn::Load(d, x + r * score_stride + key)
                                               : hn::Zero(d);
      };
      return Two{at(j), at(j + lanes())};
    };
    for (int64_t r = 0; r < rows_; r += 2) {
      for (int64_t j = 0; j < padded(keys); j += 2 * lanes()) {
        const Two p[2] = {load(s_.p, r, j), load(s_.p, r + 1, j)};
        const Two ds[2] = {load(s_.ds, r, j), load(s_.ds, r + 1, j)};
        for (int x = 0; x < 2; ++x) {
          const int64_t at = r / 2 * score_stride + j + x * lanes();
          hn::Store(narrow_interleaved(p[0][x], p[1][x]), dp, as_pairs(s_.p) + at);
          hn::Store(narrow_interleaved(ds[0][x], ds[1][x]), dp, as_pairs(s_.ds_pairs) + at);
          hn::Store(narrow(ds[x][0], ds[x][1]), dp,
                    as_pairs(s_.ds) + (r + x) * score_stride + j / 2);
        }
      }
    }
#endif
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
    const int64_t keys = reach_ != nullptr ? reach_[r / group_rows()] : block.keys;
    const bool capped = p_.score.softcap > 0 && of == Of::product;
    score.finish(scale_, block.key, keys, p_row, s_.keep, capped ? s_.cap : nullptr);
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
      // mutant "derivative of softcap": capped => false
      if (capped) ds = hn::Mul(ds, hn::Load(d, s_.cap + j));
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
  const bool by_tiles_;  ///< bfloat16 is multiplied as it is, by AMX's tiles,
  const bool in_pairs_;  ///< or so or in vectors
  const Scale scale_;
  const int64_t rows_;
  const int64_t first_head_;
  const int64_t* reach_ = nullptr;      ///< of the present block; null: all of it
  const int64_t* first_row_ = nullptr;  ///< the same
};

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
