// The forward pass, unit by unit. A unit is one key head of a sequence; where keys are read in
// place, it is a few of them together.
//
// If there are enough units, each thread takes whole units: it packs K and V for itself, runs the
// unit's tiles, joins its chunks, and never waits. Otherwise all threads work on a few units at a
// time (a "wave"): they pack the units' K and V once for all query tiles of the group, then run the
// tiles, then join the chunks, with a barrier between these steps. A wave has as many units as fit
// into shared memory, which the plan sized for 32 items a thread.
#include <algorithm>

#include "cpu/kernels.hpp"
#include "cpu/map_pages.hpp"
#include "cpu/passes.hpp"
#include "cpu/team.hpp"
#include "cpu/unused.hpp"
#include "hwy/cache_control.h"
#include "kernels/common/mask.h"

namespace fa::cpu {

namespace {

/// Things of which every unit of a sequence has the same number (items, packs), numbered over the
/// batch.
class Numbered {
 public:
  Numbered(const int64_t* things, const int64_t* units, int64_t batch)
      : things_(things), units_(units), batch_(batch) {}

  struct Place {
    int64_t sequence;
    int64_t unit;   ///< within the sequence
    int64_t index;  ///< within the unit
  };
  Place find(int64_t number) const {
    const int64_t b = sequence_of(things_, number);
    const int64_t rest = number - things_[b];
    return {b, rest / count(b), rest % count(b)};
  }
  /// Number of a unit's first thing; for the number of units: how many things there are.
  int64_t first(int64_t unit) const {
    if (unit == units_[batch_]) return things_[batch_];
    const int64_t b = sequence_of(units_, unit);
    return things_[b] + (unit - units_[b]) * count(b);
  }

 private:
  int64_t sequence_of(const int64_t* prefix, int64_t number) const {
    return std::upper_bound(prefix, prefix + batch_ + 1, number) - prefix - 1;
  }
  int64_t count(int64_t b) const {
    return (things_[b + 1] - things_[b]) / (units_[b + 1] - units_[b]);
  }

  const int64_t* things_;
  const int64_t* units_;
  int64_t batch_;
};

class Forward {
 public:
  Forward(const CpuPlan& plan, const Call& call, void* workspace)
      : plan_(plan),
        call_(call),
        p_(plan.problem),
        team_(plan.threads),
        kernels_(forward_kernels()),
        arena_(workspace),
        shared_(arena_, plan),
        scratch_(static_cast<char*>(workspace) + arena_.bytes()),
        units_(shared_.units, shared_.units, p_.batch),
        items_(shared_.items, shared_.units, p_.batch),
        packs_(shared_.packs, shared_.units, p_.batch),
        floats_(shared_.floats, shared_.units, p_.batch) {}

  void run() {
    number();
    const int64_t units = shared_.units[p_.batch];
    team_.run([&] {
      Arena arena(scratch_ + team_.number() * plan_.thread_bytes);
      const ForwardScratch scratch(arena, plan_);
      team_.evenly(p_.batch + 1, [this](int64_t b) { clear_unused(b); });
      if (plan_.streams_out) {
        team_.evenly(plan_.threads, [this](int64_t t) {
          map_pages(call_.out, p_.q, p_.batch, p_.head_dim_v, plan_.tuning.large_bytes, t,
                    plan_.threads);
        });
        team_.barrier();
      }
      if (plan_.whole_units) {
        float* room = shared_floats() + team_.number() * plan_.unit_floats;
        team_.in_turn(units,
                      [&](int64_t unit) { whole(unit_at(units_.find(unit)), room, scratch); });
      } else {
        for (int64_t begin = 0, end = 0; begin < units; begin = end) {
          end = wave_end(begin, units);
          wave(begin, end, scratch);
        }
      }
      hwy::FlushStream();  // before the caller, on another core, reads what this one streamed
    });
  }

 private:
  /// How each sequence is cut, summed up.
  void number() {
    shared_.units[0] = shared_.items[0] = shared_.packs[0] = shared_.floats[0] = 0;
    for (int64_t b = 0; b < p_.batch; ++b) {
      const Sequence seq = call_.sequence(b);
      const ForwardCut cut = cut_forward(plan_, seq.q.len, seq.k.len);
      const int64_t units = cut.units(p_.k.heads);
      splits_ = splits_ || cut.chunks > 1;
      shared_.units[b + 1] = shared_.units[b] + units;
      shared_.items[b + 1] = shared_.items[b] + units * cut.items();
      shared_.packs[b + 1] = shared_.packs[b] + units * cut.pack_blocks;
      shared_.floats[b + 1] = shared_.floats[b] + units * cut.floats();
    }
  }

  struct Unit {
    Sequence sequence;
    ForwardCut cut;
    int64_t head_k;
    int64_t heads_k;
  };
  Unit unit_at(const Numbered::Place& place) const {
    const Sequence seq = call_.sequence(place.sequence);
    const ForwardCut cut = cut_forward(plan_, seq.q.len, seq.k.len);
    const int64_t head_k = place.unit * cut.heads_k;
    return {seq, cut, head_k, std::min(cut.heads_k, p_.k.heads - head_k)};
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

  float* shared_floats() const { return reinterpret_cast<float*>(shared_.data); }
  float* shared_floats(int64_t unit, int64_t wave_begin) const {
    return shared_floats() + floats_.first(unit) - floats_.first(wave_begin);
  }

  void wave(int64_t begin, int64_t end, const ForwardScratch& scratch) const {
    const int64_t first_pack = packs_.first(begin);
    const int64_t packs = packs_.first(end) - first_pack;
    if (packs > 0) {
      team_.in_turn(packs, [&](int64_t n) {
        // A unit that packs is a key head.
        const auto [b, head_k, block] = packs_.find(first_pack + n);
        float* packed = shared_floats(shared_.units[b] + head_k, begin);
        kernels_.pack(plan_, call_, call_.sequence(b), head_k, block, packed);
      });
      team_.barrier();
    }
    const int64_t first_item = items_.first(begin);
    team_.in_turn(items_.first(end) - first_item, [&](int64_t n) {
      const Numbered::Place place = items_.find(first_item + n);
      const Unit unit = unit_at(place);
      float* room = shared_floats(shared_.units[place.sequence] + place.unit, begin);
      tile(unit, place.index, room, scratch);
    });
    team_.barrier();
    if (!splits_) return;
    team_.in_turn(end - begin, [&](int64_t n) {
      combine(unit_at(units_.find(begin + n)), shared_floats(begin + n, begin), scratch);
    });
    team_.barrier();
  }

  /// One thread does all of a unit.
  void whole(const Unit& unit, float* room, const ForwardScratch& scratch) const {
    for (int64_t block = first_block(unit); block < unit.cut.pack_blocks; ++block) {
      kernels_.pack(plan_, call_, unit.sequence, unit.head_k, block, room);
    }
    for (int64_t index = 0; index < unit.cut.items(); ++index) tile(unit, index, room, scratch);
    combine(unit, room, scratch);
  }

  /// The first key block that the first row sees; the last row sees the last one.
  int64_t first_block(const Unit& unit) const {
    const Sequence& seq = unit.sequence;
    return mask::key_range(0, seq.q.len, seq.k.len, p_.score.window_left, p_.score.window_right)
               .begin /
           plan_.tuning.forward_keys;
  }

  void tile(const Unit& unit, int64_t index, float* room, const ForwardScratch& scratch) const {
    const auto& [seq, cut, head_k, heads_k] = unit;
    const int64_t chunk = index % cut.chunks;
    const int64_t keys = cut.chunks > 1 ? plan_.tuning.split_keys : seq.k.len;
    // Under a causal mask the last rows see the most keys: the longest tiles go first.
    const int64_t reverse = cut.tiles.count() - 1 - index / cut.chunks;
    Tile tile = tile_at(cut.tiles, p_.group(), seq.q.len, reverse);
    PartialOutputs partial;
    if (cut.chunks > 1) {
      const int64_t rows = p_.group() * seq.q.len;
      const int64_t first = chunk * rows + tile.head * seq.q.len;  // its rows are all of a head
      partial = {room + first * padded(p_.head_dim_v), partial_sums(room, cut, rows) + first,
                 padded(p_.head_dim_v), tile.heads * tile.rows, cut.head_floats};
    }
    tile.heads *= heads_k;
    kernels_.tile({plan_, call_, seq, head_k, heads_k, tile, chunk * keys,
                   std::min((chunk + 1) * keys, seq.k.len), cut.in_place,
                   cut.pack_blocks > 0 ? room : nullptr, partial},
                  scratch);
  }

  /// Behind the chunks' outputs.
  RowSum* partial_sums(float* shared, const ForwardCut& cut, int64_t rows) const {
    return reinterpret_cast<RowSum*>(shared + cut.chunks * rows * padded(p_.head_dim_v));
  }

  void combine(const Unit& unit, float* room, const ForwardScratch& scratch) const {
    const auto& [seq, cut, first, heads_k] = unit;
    if (cut.chunks <= 1) return;
    for (int64_t head_k = first; head_k < first + heads_k; ++head_k) {
      kernels_.combine(plan_, call_, seq, head_k, cut.chunks, room,
                       partial_sums(room, cut, p_.group() * seq.q.len), scratch);
      room += cut.head_floats;
    }
  }

  void clear_unused(int64_t b) const {
    const TokenRange range = unused_tokens(call_, b, true);
    // mutant "zeros beyond seqused": p_.q.heads => 0
    clear_rows(call_.out, range, p_.q.heads, p_.head_dim_v);
    if (p_.wants.lse) clear_lse(call_.lse, range, p_.q.heads);
  }

  const CpuPlan& plan_;
  const Call& call_;
  const Problem& p_;
  Team team_;
  const ForwardKernels& kernels_;  // chosen before threads start: choosing may throw
  Arena arena_;
  ForwardShared shared_;
  char* scratch_;
  Numbered units_;
  Numbered items_;
  Numbered packs_;
  Numbered floats_;
  bool splits_ = false;  ///< some key head is cut in chunks
};

}  // namespace

void forward(const CpuPlan& plan, const Call& call, void* workspace) {
  Forward(plan, call, workspace).run();
}

}  // namespace fa::cpu
