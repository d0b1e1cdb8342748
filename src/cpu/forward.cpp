// The forward pass over all sequences and heads.
//
// Key heads are worked on a few at a time (the "wave"): first their K and V are packed once for all
// query tiles of the group, then the tiles are handed out, then chunks are joined; a barrier stands
// between. A wave is as long as shared memory allows, which the plan sized for 32 items a thread.
#include <omp.h>

#include <algorithm>

#include "cpu/kernels.hpp"
#include "cpu/passes.hpp"
#include "cpu/unused.hpp"

namespace fa::cpu {

namespace {

/// Something that every key head of a sequence has the same number of, numbered over the batch.
class Numbered {
 public:
  Numbered(const int64_t* prefix, int64_t batch, int64_t heads_k)
      : prefix_(prefix), batch_(batch), heads_k_(heads_k) {}

  struct Place {
    int64_t sequence;
    int64_t head_k;
    int64_t index;  ///< within the key head
  };
  Place find(int64_t number) const {
    const int64_t b = std::upper_bound(prefix_, prefix_ + batch_ + 1, number) - prefix_ - 1;
    const int64_t each = count(b);
    const int64_t rest = number - prefix_[b];
    return {b, rest / each, rest % each};
  }
  int64_t count(int64_t b) const { return (prefix_[b + 1] - prefix_[b]) / heads_k_; }
  /// Number of the first one of a unit (sequence * heads_k + key head).
  int64_t first(int64_t unit) const {
    const int64_t b = unit / heads_k_;
    return b == batch_ ? prefix_[b] : prefix_[b] + unit % heads_k_ * count(b);
  }

 private:
  const int64_t* prefix_;
  int64_t batch_;
  int64_t heads_k_;
};

class Forward {
 public:
  Forward(const CpuPlan& plan, const Call& call, void* workspace)
      : plan_(plan),
        call_(call),
        p_(plan.problem),
        kernels_(forward_kernels()),
        arena_(workspace),
        shared_(arena_, plan),
        scratch_(static_cast<char*>(workspace) + arena_.bytes()),
        items_(shared_.items, p_.batch, p_.heads_k),
        packs_(shared_.packs, p_.batch, p_.heads_k),
        floats_(shared_.floats, p_.batch, p_.heads_k) {}

  void run() {
    number();
    const int64_t units = p_.batch * p_.heads_k;
#pragma omp parallel num_threads(plan_.threads) if (plan_.threads > 1)
    {
      Arena arena(scratch_ + omp_get_thread_num() * plan_.thread_bytes);
      const ForwardScratch scratch(arena, plan_);
#pragma omp for schedule(static) nowait
      for (int64_t b = 0; b <= p_.batch; ++b) clear_unused(b);
      for (int64_t begin = 0, end = 0; begin < units; begin = end) {
        end = wave_end(begin, units);
        wave(begin, end, scratch);
      }
    }
  }

 private:
  /// How each sequence is cut, summed up.
  void number() {
    shared_.items[0] = shared_.packs[0] = shared_.floats[0] = 0;
    for (int64_t b = 0; b < p_.batch; ++b) {
      const Sequence seq = call_.sequence(b);
      const ForwardCut cut = cut_forward(plan_, seq.q_len, seq.k_len);
      splits_ = splits_ || cut.chunks > 1;
      shared_.items[b + 1] = shared_.items[b] + p_.heads_k * cut.items();
      shared_.packs[b + 1] = shared_.packs[b] + p_.heads_k * cut.pack_blocks;
      shared_.floats[b + 1] = shared_.floats[b] + p_.heads_k * cut.floats;
    }
  }

  int64_t wave_end(int64_t begin, int64_t units) const {
    const int64_t limit =
        floats_.first(begin) + static_cast<int64_t>(plan_.shared_bytes / sizeof(float));
    int64_t low = begin + 1;  // the plan has room for any one unit
    int64_t high = units;
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (floats_.first(middle) <= limit) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }

  float* shared_floats(int64_t unit, int64_t wave_begin) const {
    return reinterpret_cast<float*>(shared_.data) + floats_.first(unit) - floats_.first(wave_begin);
  }

  void wave(int64_t begin, int64_t end, const ForwardScratch& scratch) const {
    if (packs_.first(begin) < packs_.first(end)) {
#pragma omp for schedule(dynamic)
      for (int64_t number = packs_.first(begin); number < packs_.first(end); ++number) {
        const auto [b, head_k, block] = packs_.find(number);
        float* packed = shared_floats(b * p_.heads_k + head_k, begin);
        kernels_.pack(plan_, call_, call_.sequence(b), head_k, block, packed, scratch);
      }
    }
#pragma omp for schedule(dynamic)
    for (int64_t number = items_.first(begin); number < items_.first(end); ++number) {
      tile(items_.find(number), begin, scratch);
    }
    if (!splits_) return;
#pragma omp for schedule(dynamic)
    for (int64_t unit = begin; unit < end; ++unit) combine(unit, begin, scratch);
  }

  void tile(Numbered::Place place, int64_t wave_begin, const ForwardScratch& scratch) const {
    const Sequence seq = call_.sequence(place.sequence);
    const ForwardCut cut = cut_forward(plan_, seq.q_len, seq.k_len);
    float* shared = shared_floats(place.sequence * p_.heads_k + place.head_k, wave_begin);
    const int64_t chunk = place.index % cut.chunks;
    // Under a causal mask the last rows see the most keys: the longest tiles go first.
    const int64_t index = cut.tiles.count() - 1 - place.index / cut.chunks;
    const int64_t keys = cut.chunks > 1 ? plan_.tuning.split_keys : seq.k_len;
    const int64_t rows = p_.group() * seq.q_len;
    ForwardTile task{plan_,
                     call_,
                     seq,
                     place.head_k,
                     tile_at(cut.tiles, p_.group(), seq.q_len, index),
                     chunk * keys,
                     std::min((chunk + 1) * keys, seq.k_len),
                     cut.pack_blocks > 0 ? shared : nullptr,
                     nullptr,
                     nullptr};
    if (cut.chunks > 1) {
      const int64_t first =
          chunk * rows + task.tile.head * seq.q_len;  // its rows are all of a head
      task.partial_out = shared + first * padded(p_.head_dim_v);
      task.partial_lse = partial_lse(shared, cut, rows) + first;
    }
    kernels_.tile(task, scratch);
  }

  /// Behind the chunks' outputs.
  float* partial_lse(float* shared, const ForwardCut& cut, int64_t rows) const {
    return shared + cut.chunks * rows * padded(p_.head_dim_v);
  }

  void combine(int64_t unit, int64_t wave_begin, const ForwardScratch& scratch) const {
    const Sequence seq = call_.sequence(unit / p_.heads_k);
    const ForwardCut cut = cut_forward(plan_, seq.q_len, seq.k_len);
    if (cut.chunks <= 1) return;
    float* shared = shared_floats(unit, wave_begin);
    kernels_.combine(plan_, call_, seq, unit % p_.heads_k, cut.chunks, shared,
                     partial_lse(shared, cut, p_.group() * seq.q_len), scratch);
  }

  void clear_unused(int64_t b) const {
    const TokenRange range = unused_tokens(call_, b, true);
    clear_rows(call_.out, range, p_.heads_q, p_.head_dim_v);
    if (p_.lse) clear_lse(call_.lse, range, p_.heads_q);
  }

  const CpuPlan& plan_;
  const Call& call_;
  const Problem& p_;
  const ForwardKernels& kernels_;  // chosen before threads start: choosing may throw
  Arena arena_;
  ForwardShared shared_;
  char* scratch_;
  Numbered items_;
  Numbered packs_;
  Numbered floats_;
  bool splits_ = false;  ///< some key head is cut in chunks
};

}  // namespace

void forward(const CpuPlan& plan, const Call& call, void* workspace) {
  Forward(plan, call, workspace).run();
}

int default_threads() { return omp_in_parallel() != 0 ? 1 : omp_get_max_threads(); }

}  // namespace fa::cpu
