// The backward pass: Algorithm 2 of FlashAttention-2 with its five products, on a CPU.
//
// An item holds a slab of keys: K and V packed, dK and dV as float32 sums. For each tile of query
// rows and each block of the slab:
//   S = Q K^T, dP = dO V^T;  P = exp(S - LSE), dS = P (Z dP - delta);
//   dV += (Z P)^T dO, dK += dS^T Q, dQ += dS K.
// Cost for M rows and N keys: 2 M N (3 D + 2 Dv) multiply-adds; a tile's Q and dO are loaded once
// for each slab, (D + Dv) M numbers for 2 M (3 D + 2 Dv) slab_keys of work: under 1% at 960 keys.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/backward_simd.cpp"
#include "hwy/foreach_target.h"  // must come first
// clang-format off
#include "hwy/highway.h"
#include "cpu/arithmetic/tiles-inl.hpp"
#include "cpu/backward_tile-inl.hpp"
#include "cpu/math-inl.hpp"
#include "cpu/rows-inl.hpp"
#include "cpu/score-inl.hpp"
// clang-format on

#include <algorithm>
#include <cstring>

#include "cpu/kernels.hpp"
#include "cpu/target.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// total += x with what rounding takes kept in rest, all padded to whole vectors.
HWY_ATTR HWY_INLINE void add_row(const float* x, int64_t n, float* total, float* rest) {
  const Floats d;
  for (int64_t c = 0; c < padded(n); c += lanes()) {
    auto sum = hn::Load(d, total + c);
    auto lost = hn::Load(d, rest + c);
    add_kept(d, hn::Load(d, x + c), sum, lost);
    hn::Store(sum, d, total + c);
    hn::Store(lost, d, rest + c);
  }
}

/// delta = <dO, O> - dLSE. For a row without a key it is 0, or -dLSE where there is a sink; the
/// main pass is given LSE = +inf there, so that it reads nothing of dO.
HWY_ATTR void Delta(const CpuPlan& plan, const Call& call, const Sequence& seq, int64_t head,
                    const BackwardShared& shared, const BackwardScratch& scratch) {
  const Floats d;
  const Problem& p = plan.problem;
  float* out = scratch.two_rows;
  float* dout = scratch.two_rows + row_stride(p.head_dim_v);
  for (int64_t i = 0; i < seq.q.len; ++i) {
    const float lse = *call.lse.at<float>(seq.index, seq.q.begin + i, head);
    const bool live = lse != -infinity && ScoreRow(call, seq, head, i).sees_a_key();
    float delta = 0;
    if (live) {
      load_row(p.dtype, query_row(call.out, seq, i, head), p.head_dim_v, 1.0f, out);
      load_row(p.dtype, query_row(call.dout, seq, i, head), p.head_dim_v, 1.0f, dout);
      auto total = hn::Zero(d);
      for (int64_t c = 0; c < padded(p.head_dim_v);) {
        const int64_t end = std::min(c + score_run * lanes(), padded(p.head_dim_v));
        auto sum = hn::Zero(d);
        for (; c < end; c += lanes()) {
          sum = hn::MulAdd(hn::Load(d, out + c), hn::Load(d, dout + c), sum);
        }
        total = hn::Add(total, sum);
      }
      // mutant "delta": hn::GetLane(hn::SumOfLanes(d, total)) => delta
      delta = hn::GetLane(hn::SumOfLanes(d, total));
    }
    // mutant "dLSE": p.wants.dlse => false
    if (lse != -infinity && p.wants.dlse) {
      delta -= *call.dlse.at<float>(seq.index, seq.q.begin + i, head);
    }
    const int64_t at = head * p.q.tokens + token(p, seq) + i;
    shared.delta[at] = delta;
    // mutant "rows without a key": live => true
    shared.lse[at] = live ? lse : infinity;
  }
}

/// One slab of an item's keys: packs it, runs all query rows past it, writes its dK and dV.
template <class A>
class Slab {
 public:
  Slab(const BackwardItem& item, const BackwardShared& shared, const BackwardScratch& scratch,
       int64_t begin, int64_t end)
      : item_(item),
        shared_(shared),
        s_(scratch),
        p_(item.plan.problem),
        begin_(begin),
        end_(end),
        settles_(many_tiles(item.plan, item.sequence.q.len)) {}

  HWY_ATTR void run() const {
    [[maybe_unused]] const typename A::Registers registers{};
    const int64_t keys = end_ - begin_;
    const int64_t width = row_stride(p_.head_dim);
    const int64_t width_v = row_stride(p_.head_dim_v);
    const auto clear = [&](float* sums, int64_t row) {
      std::memset(sums, 0, keys * row * sizeof(float));
    };
    clear(s_.dk, width);
    clear(s_.dv, width_v);
    if (settles_) {
      for (float* sums : {s_.settled_dk, s_.dk_rest}) clear(sums, width);
      for (float* sums : {s_.settled_dv, s_.dv_rest}) clear(sums, width_v);
    }
    for (int64_t key = begin_; key < end_; key += item_.plan.tuning.backward_keys) {
      pack_key_block<A>(item_.call, item_.sequence, item_.head_k, block(key));
    }
    const int64_t q_len = item_.sequence.q.len;
    const TileShape shape = tile_shape(p_.group(), q_len, item_.plan.tuning.backward_rows);
    for (int64_t t = 0; t < shape.count(); ++t) {
      rows(tile_at(shape, p_.group(), q_len, t));
      const bool enough = (t + 1) % item_.plan.tuning.settle_tiles == 0 || t + 1 == shape.count();
      if (!settles_ || !enough) continue;
      settle(keys * width, s_.dk, s_.settled_dk, s_.dk_rest);
      settle(keys * width_v, s_.dv, s_.settled_dv, s_.dv_rest);
    }
    store();
  }

 private:
  KeyBlock block(int64_t key) const { return key_block(item_.plan, s_, begin_, key, end_); }

  HWY_ATTR void rows(const Tile& tile) const {
    BackwardTile<A> t(item_.plan, item_.call, item_.sequence, item_.head_k * p_.group(), tile, s_,
                      shared_);
    if (t.keys_in_sight(begin_, end_) == 0) return;
    t.load();
    const int64_t width = row_stride(p_.head_dim);
    std::memset(s_.dq, 0, t.rows() * width * sizeof(float));
    for (int64_t key = begin_; key < end_; key += item_.plan.tuning.backward_keys) {
      KeyBlock b = block(key);
      b.keys = t.keys_in_sight(b.key, b.key + b.keys);
      if (b.keys == 0) continue;
      t.score_gradients(b, Of::product);
      t.add_gradients(b);
    }
    for (int64_t r = 0; r < t.rows(); ++r) add_dq(t.head(r), t.row(r), s_.dq + r * width);
  }

  /// Adds what the last tiles gave to the settled sums.
  static HWY_ATTR void settle(int64_t n, float* sums, float* settled, float* rest) {
    add_row(sums, n, settled, rest);
    std::memset(sums, 0, n * sizeof(float));
  }

  HWY_ATTR HWY_INLINE void add_dq(int64_t head, int64_t i, const float* dq) const {
    const int64_t at =
        ((item_.chunk * p_.q.heads + head) * p_.q.tokens + token(p_, item_.sequence) + i) *
        p_.head_dim;
    const bool keeps_rest = long_chunk(item_.plan, item_.key_end - item_.key_begin);
    const D8 d;  // rows of the partial sums are not padded
    for (int64_t c = 0; c < p_.head_dim; c += static_cast<int64_t>(hn::Lanes(d))) {
      float* sum = shared_.dq + at + c;
      auto total = hn::LoadU(d, sum);
      const auto x = hn::Load(d, dq + c);
      if (keeps_rest) {
        auto rest = hn::LoadU(d, shared_.dq_rest + at + c);
        add_kept(d, x, total, rest);
        hn::StoreU(rest, d, shared_.dq_rest + at + c);
      } else {
        total = hn::Add(total, x);
      }
      hn::StoreU(total, d, sum);
    }
  }

  HWY_ATTR void store() const {
    const Call& call = item_.call;
    // The rest of the scale is in dS.
    const float factor = Scale(p_.score.scale, A::name).score;
    const float* dk = settles_ ? s_.settled_dk : s_.dk;
    const float* dv = settles_ ? s_.settled_dv : s_.dv;
    for (int64_t j = 0; j < end_ - begin_; ++j) {
      // mutant "dk": factor => 0.0f
      store_row(p_.dtype, dk + j * row_stride(p_.head_dim), p_.head_dim, factor,
                key_row(call.dk, item_.sequence, begin_ + j, item_.head_k));
      store_row(p_.dtype, dv + j * row_stride(p_.head_dim_v), p_.head_dim_v, 1.0f,
                key_row(call.dv, item_.sequence, begin_ + j, item_.head_k));
    }
  }

  const BackwardItem& item_;
  const BackwardShared& shared_;
  const BackwardScratch& s_;
  const Problem& p_;
  const int64_t begin_;
  const int64_t end_;
  const bool settles_;  ///< dK and dV
};

void Item(const BackwardItem& item, const BackwardShared& shared, const BackwardScratch& scratch) {
  const Problem& p = item.plan.problem;
  for (int64_t h = item.head_k * p.group(); h < (item.head_k + 1) * p.group(); ++h) {
    const int64_t first = (item.chunk * p.q.heads + h) * p.q.tokens + token(p, item.sequence);
    const int64_t bytes = item.sequence.q.len * p.head_dim * static_cast<int64_t>(sizeof(float));
    std::memset(shared.dq + first * p.head_dim, 0, bytes);
    if (long_chunk(item.plan, item.key_end - item.key_begin)) {
      std::memset(shared.dq_rest + first * p.head_dim, 0, bytes);
    }
  }
  const int64_t keys = item.plan.tuning.slab_keys;
  with_arithmetic(item.plan.arithmetic, [&]<class A>(A) {
    for (int64_t key = item.key_begin; key < item.key_end; key += keys) {
      Slab<A>(item, shared, scratch, key, std::min(key + keys, item.key_end)).run();
    }
  });
}

/// dq = the rest of the scale * sum of the chunks' dS K, in the chunks' order.
HWY_ATTR void FinishDq(const CpuPlan& plan, const Call& call, const Sequence& seq, int64_t head,
                       int64_t chunks, const BackwardShared& shared,
                       const BackwardScratch& scratch) {
  const Problem& p = plan.problem;
  const float scale = Scale(p.score.scale, plan.arithmetic).score;
  for (int64_t i = 0; i < seq.q.len; ++i) {
    float* sum = scratch.two_rows;
    const auto partial = [&](int64_t chunk) {
      return shared.dq + ((chunk * p.q.heads + head) * p.q.tokens + token(p, seq) + i) * p.head_dim;
    };
    std::memset(sum, 0, p.head_dim * sizeof(float));
    for (int64_t c = 0; c < chunks; ++c) {
      for (int64_t x = 0; x < p.head_dim; ++x) sum[x] += partial(c)[x];
    }
    // mutant "dq": scale => 0.0f
    store_row(p.dtype, sum, p.head_dim, scale, query_row(call.dq, seq, i, head));
  }
}

/// One tile of dbias. It recomputes P and dP, two more products, so that sums over a broadcast bias
/// have a fixed order and need no memory of their own.
template <class A>
class BiasGradient {
 public:
  BiasGradient(const CpuPlan& plan, const Call& call, const BackwardShared& shared,
               const BackwardScratch& scratch, int64_t row_begin, int64_t key_begin)
      : plan_(plan),
        call_(call),
        shared_(shared),
        s_(scratch),
        p_(plan.problem),
        row_begin_(row_begin),
        key_begin_(key_begin),
        key_end_(std::min(key_begin + plan.tuning.backward_keys, p_.k.seqlen)),
        sum_rows_(p_.score.bias_per_row
                      ? std::min(plan.tuning.backward_rows, p_.q.seqlen - row_begin)
                      : 1) {}

  HWY_ATTR void run(int64_t slot_batch, int64_t slot_head) const {
    [[maybe_unused]] const typename A::Registers registers{};
    std::memset(sum(0), 0, sum_rows_ * score_stride * sizeof(float));
    std::memset(s_.bias_rest, 0, sum_rows_ * score_stride * sizeof(float));
    // mutant "dbias: sum over the batch": p_.score.bias_per_batch => true
    const int64_t batch_end = p_.score.bias_per_batch ? slot_batch + 1 : p_.batch;
    // mutant "dbias: sum over heads": p_.score.bias_per_head => true
    const int64_t head_end = p_.score.bias_per_head ? slot_head + 1 : p_.q.heads;
    for (int64_t b = slot_batch; b < batch_end; ++b) {
      for (int64_t h = slot_head; h < head_end; ++h) add_head(call_.sequence(b), h);
    }
    const int64_t bytes = bytes_of(p_.wants.dbias_dtype);
    for (int64_t r = 0; r < sum_rows_; ++r) {
      const int64_t at = call_.dbias.offset(slot_batch, row_begin_ + r, slot_head) + key_begin_;
      store_row(p_.wants.dbias_dtype, sum(r), key_end_ - key_begin_, 1.0f,
                call_.dbias.data + at * bytes);
    }
  }

 private:
  float* sum(int64_t r) const { return s_.bias + r * score_stride; }

  HWY_ATTR void add_head(const Sequence& seq, int64_t head) const {
    const int64_t key_end = std::min(key_end_, seq.k.len);
    // mutant "dbias: sum over rows": p_.score.bias_per_row => true
    const int64_t row_end =
        std::min(seq.q.len, p_.score.bias_per_row ? row_begin_ + sum_rows_ : seq.q.len);
    if (key_begin_ >= key_end || row_begin_ >= row_end) return;
    const KeyBlock block = key_block(plan_, s_, key_begin_, key_begin_, key_end);
    pack_key_block<A>(call_, seq, head / p_.group(), block);
    for (int64_t i = row_begin_; i < row_end; i += plan_.tuning.backward_rows) {
      const Tile tile{0, 1, i, std::min(plan_.tuning.backward_rows, row_end - i)};
      BackwardTile<A> t(plan_, call_, seq, head, tile, s_, shared_);
      if (t.keys_in_sight(block.key, block.key + block.keys) == 0) continue;
      t.load();
      t.score_gradients(block, Of::softmax);
      for (int64_t r = 0; r < t.rows(); ++r) {
        const int64_t to = p_.score.bias_per_row ? r : 0;
        // mutant "dbias": block.keys => 0
        add_row(s_.ds + r * score_stride, block.keys, sum(to), s_.bias_rest + to * score_stride);
      }
    }
  }

  const CpuPlan& plan_;
  const Call& call_;
  const BackwardShared& shared_;
  const BackwardScratch& s_;
  const Problem& p_;
  const int64_t row_begin_;
  const int64_t key_begin_;
  const int64_t key_end_;
  const int64_t sum_rows_;
};

void Dbias(const CpuPlan& plan, const Call& call, int64_t slot_batch, int64_t slot_head,
           int64_t row_begin, int64_t key_begin, const BackwardShared& shared,
           const BackwardScratch& scratch) {
  with_arithmetic(plan.arithmetic, [&]<class A>(A) {
    BiasGradient<A>(plan, call, shared, scratch, row_begin, key_begin).run(slot_batch, slot_head);
  });
}

BackwardKernels GetBackwardKernels() { return {Delta, Item, FinishDq, Dbias}; }

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fa::cpu {

HWY_EXPORT(GetBackwardKernels);

const BackwardKernels& backward_kernels() {
  static const BackwardKernels kernels = HWY_DISPATCH_TABLE(GetBackwardKernels)[target_index()]();
  return kernels;
}

}  // namespace fa::cpu
#endif
