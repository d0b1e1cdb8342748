// Features of random problems, and which of them may meet in one problem.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <string>
#include <vector>

#include "check/random.hpp"

namespace fa::check {

enum class Feature : uint8_t {
  fp32,
  fp16,
  bf16,
  backward,
  no_lse,
  gqa,
  causal,
  window,
  softcap,
  scale,
  scale_not_positive,
  dropout,
  dropout_state,
  alibi,
  bias,
  bias_broadcast,
  bias_inf,
  dbias,
  sinks,
  sink_inf,
  dsinks,
  dlse,
  packed_q,
  packed_k,
  used_q,
  used_k,
  paged,  ///< keys lie in the pages of a cache
  v_dim,  ///< V's head_dim is not Q's
  wide,   ///< a head_dim beyond 256
  strided,
  unaligned,  ///< some tensor's rows are not aligned to 16 bytes
  threads,
  deterministic,
  batch_invariant,
  tile_edges,  ///< more rows than a tile of queries and more keys than a tile of keys
  many_keys,   ///< so few queries and so many keys that the keys may be split
  empty_rows,  ///< rows that see no key
  zero_length,
  large,  ///< magnitudes
  tiny,
};
inline constexpr int feature_count = static_cast<int>(Feature::tiny) + 1;

/// What is known of each Feature, in their order.
struct FeatureEntry {
  const char* name;  ///< in reports
  double chance;     ///< that a problem asks for it
};
inline constexpr std::array<FeatureEntry, feature_count> feature_entries{{
    {"fp32", 0},
    {"fp16", 0},
    {"bf16", 0},
    {"backward", 0.75},
    {"no_lse", 0.1},
    {"gqa", 0.4},
    {"causal", 0.3},
    {"window", 0.25},
    {"softcap", 0.2},
    {"scale", 0.4},
    {"scale_not_positive", 0.1},
    {"dropout", 0.2},
    {"dropout_state", 0.1},
    {"alibi", 0.2},
    {"bias", 0.1},
    {"bias_broadcast", 0.1},
    {"bias_inf", 0.05},
    {"dbias", 0.2},
    {"sinks", 0.25},
    {"sink_inf", 0.05},
    {"dsinks", 0.15},
    {"dlse", 0.3},
    {"packed_q", 0.4},
    {"packed_k", 0.4},
    {"used_q", 0.2},
    {"used_k", 0.2},
    {"paged", 0.2},
    {"v_dim", 0.3},
    {"wide", 0.02},
    {"strided", 0.5},
    {"unaligned", 0.3},
    {"threads", 0.2},
    {"deterministic", 0.3},
    {"batch_invariant", 0.3},
    {"tile_edges", 0.33},
    {"many_keys", 0.04},
    {"empty_rows", 0.15},
    {"zero_length", 0.1},
    {"large", 0.1},
    {"tiny", 0.1},
}};

using Features = std::bitset<feature_count>;

inline size_t bit(Feature f) { return static_cast<size_t>(f); }
inline const char* name(Feature f) { return feature_entries[bit(f)].name; }

enum class Meeting : uint8_t {
  allowed,
  refused,  ///< the library must say no
  never     ///< no problem can have both
};
Meeting meeting(Feature a, Feature b);

struct Pair {
  Feature a, b;
};
/// Every pair of these features that may meet, in a fixed order.
std::vector<Pair> allowed_pairs(const Features& offered);
std::string text(Pair pair);

/// A pair and all that it needs.
Features with_needs(Pair pair);

/// Random features of those offered that go together, `pair` (and what it needs) among them.
Features draw_features(Pair pair, const Features& offered, Random& random);

/// Counts how often each pair of the offered features met.
class PairTable {
 public:
  explicit PairTable(const Features& offered) : offered_(offered) {}
  void add(const Features& features);
  std::vector<std::string> missed() const;
  std::string text() const;

 private:
  Features offered_;
  std::array<std::array<int64_t, feature_count>, feature_count> count_{};
};

}  // namespace fa::check
