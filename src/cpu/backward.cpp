// The backward pass over all sequences and heads: delta, then dK, dV and partial dQ, then dQ and
// the gradients of what is shared (bias, sinks).
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/kernels.hpp"
#include "cpu/map_pages.hpp"
#include "cpu/number.hpp"
#include "cpu/passes.hpp"
#include "cpu/team.hpp"
#include "cpu/unused.hpp"

namespace fa::cpu {

namespace {

class Backward {
 public:
  Backward(const CpuPlan& plan, const Call& call, void* workspace)
      : plan_(plan),
        call_(call),
        p_(plan.problem),
        team_(plan.threads),
        kernels_(backward_kernels()),
        arena_(workspace),
        shared_(arena_, plan),
        scratch_(static_cast<char*>(workspace) + arena_.bytes()) {}

  void run() {
    team_.run([this] {
      Arena arena(scratch_ + team_.number() * plan_.thread_bytes);
      const BackwardScratch scratch(arena, plan_);
      team_.evenly(p_.batch + 1, [this](int64_t b) { clear_unused(b); });
      team_.evenly(plan_.threads, [this](int64_t t) { map_outputs(t); });
      team_.evenly(p_.batch * p_.q.heads, [&](int64_t unit) {
        const Sequence seq = call_.sequence(unit / p_.q.heads);
        kernels_.delta(plan_, call_, seq, unit % p_.q.heads, shared_, scratch);
      });
      team_.barrier();
      team_.in_turn(p_.batch * p_.k.heads * plan_.backward_chunks,
                    [&](int64_t n) { item(n, scratch); });
      team_.barrier();
      team_.evenly(p_.batch * p_.q.heads, [&](int64_t unit) {
        const Sequence seq = call_.sequence(unit / p_.q.heads);
        kernels_.finish_dq(plan_, call_, seq, unit % p_.q.heads, chunks(seq), shared_, scratch);
      });
      if (p_.wants.dbias) bias_gradient(scratch);
      if (p_.wants.dsinks) team_.evenly(p_.q.heads, [this](int64_t h) { sink_gradient(h); });
    });
  }

 private:
  int64_t chunks(const Sequence& seq) const { return cut_backward(plan_, seq.k.len); }

  /// Chunks of a key head stand one behind the other; a sequence with fewer leaves theirs out.
  void item(int64_t number, const BackwardScratch& scratch) const {
    const int64_t unit = number / plan_.backward_chunks;
    const int64_t chunk = number % plan_.backward_chunks;
    const Sequence seq = call_.sequence(unit / p_.k.heads);
    const int64_t count = chunks(seq);
    if (chunk >= count) return;
    const int64_t keys = chunk_keys(plan_, seq.k.len);
    const int64_t begin = std::min(chunk * keys, seq.k.len);
    kernels_.item(
        {plan_, call_, seq, unit % p_.k.heads, begin, std::min(begin + keys, seq.k.len), chunk},
        shared_, scratch);
  }

  void bias_gradient(const BackwardScratch& scratch) const {
    const BiasTiles tiles = bias_tiles(plan_);
    const auto& [slots, heads, rows, blocks] = tiles;
    team_.in_turn(tiles.count(), [&](int64_t n) {
      const int64_t slot = n / (rows * blocks);
      kernels_.dbias(plan_, call_, slot / heads, slot % heads,
                     n / blocks % rows * plan_.tuning.backward_rows,
                     n % blocks * plan_.tuning.backward_keys, shared_, scratch);
    });
  }

  /// dsink = -sum over rows of exp(sink - LSE) delta, over all sequences in their order.
  void sink_gradient(int64_t head) const {
    const float sink =
        load_number(p_.score.sinks_dtype, call_.sinks.data, call_.sinks.offset(0, 0, head));
    double sum = 0;
    for (int64_t b = 0; b < p_.batch; ++b) {
      const Sequence seq = call_.sequence(b);
      for (int64_t i = 0; i < seq.q.len; ++i) {
        const float lse = *call_.lse.at<float>(b, seq.q.begin + i, head);
        if (lse == -std::numeric_limits<float>::infinity()) continue;
        const double delta = shared_.delta[head * p_.q.tokens + token(p_, seq) + i];
        // mutant "dsinks": delta => 0.0
        sum -= std::exp(static_cast<double>(sink) - lse) * delta;
      }
    }
    store_number(p_.wants.dsinks_dtype, static_cast<float>(sum), call_.dsinks.data,
                 call_.dsinks.offset(0, 0, head));
  }

  void map_outputs(int64_t t) const {
    const auto map = [&](const Rows& rows, const Side& side, int64_t width) {
      map_pages(rows, side, p_.batch, width, plan_.tuning.large_bytes, t, plan_.threads);
    };
    map(call_.dq, p_.q, p_.head_dim);
    map(call_.dk, p_.k, p_.head_dim);
    map(call_.dv, p_.k, p_.head_dim_v);
  }

  void clear_unused(int64_t b) const {
    clear_rows(call_.dq, unused_tokens(call_, b, true), p_.q.heads, p_.head_dim);
    const TokenRange keys = unused_tokens(call_, b, false);
    clear_rows(call_.dk, keys, p_.k.heads, p_.head_dim);
    clear_rows(call_.dv, keys, p_.k.heads, p_.head_dim_v);
  }

  const CpuPlan& plan_;
  const Call& call_;
  const Problem& p_;
  Team team_;
  const BackwardKernels& kernels_;  // chosen before threads start: choosing may throw
  Arena arena_;
  BackwardShared shared_;
  char* scratch_;
};

}  // namespace

void backward(const CpuPlan& plan, const Call& call, void* workspace) {
  Backward(plan, call, workspace).run();
}

}  // namespace fa::cpu
