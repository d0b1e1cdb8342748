#include "check/features.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace fa::check {
namespace {

using F = Feature;

constexpr std::pair<F, F> needs[] = {
    {F::dropout_state, F::dropout},
    {F::scale_not_positive, F::scale},
    {F::bias_broadcast, F::bias},
    {F::bias_inf, F::bias},
    {F::dbias, F::bias},
    {F::dbias, F::backward},
    {F::sink_inf, F::sinks},
    {F::dsinks, F::sinks},
    {F::dsinks, F::backward},
    {F::dlse, F::backward},
};

struct Exclusion {
  F a, b;
  Meeting why;
};
constexpr Exclusion exclusions[] = {
    {F::fp32, F::fp16, Meeting::never},
    {F::fp32, F::bf16, Meeting::never},
    {F::fp16, F::bf16, Meeting::never},
    {F::backward, F::no_lse, Meeting::never},  // which reads LSE
    {F::large, F::tiny, Meeting::never},
    {F::tile_edges, F::many_keys, Meeting::never},  // many rows, and few
    {F::paged, F::backward, Meeting::never},        // which is not offered
    {F::paged, F::packed_k, Meeting::never},
    {F::bias, F::packed_q, Meeting::refused},
    {F::bias, F::packed_k, Meeting::refused},
};

/// `features` with all that they need.
Features closed(Features features) {
  for (const auto& [f, needed] : needs) {
    if (features[bit(f)]) features.set(bit(needed));
  }
  return features;
}

Meeting worst_meeting(const Features& features) {
  for (const Exclusion& e : exclusions) {
    if (features[bit(e.a)] && features[bit(e.b)]) return e.why;
  }
  return Meeting::allowed;
}

}  // namespace

Features with_needs(Pair pair) {
  Features features;
  features.set(bit(pair.a));
  features.set(bit(pair.b));
  return closed(features);
}

Meeting meeting(Feature a, Feature b) { return worst_meeting(with_needs({a, b})); }

std::vector<Pair> allowed_pairs(const Features& offered) {
  std::vector<Pair> pairs;
  for (int a = 0; a < feature_count; ++a) {
    for (int b = 0; b < a; ++b) {
      const Pair pair{static_cast<F>(a), static_cast<F>(b)};
      if ((with_needs(pair) & ~offered).none() && meeting(pair.a, pair.b) == Meeting::allowed) {
        pairs.push_back(pair);
      }
    }
  }
  return pairs;
}

std::string text(Pair pair) { return fmt::format("{} x {}", name(pair.a), name(pair.b)); }

Features draw_features(Pair pair, const Features& offered, Random& random) {
  Features features = with_needs(pair);
  const auto add_if_possible = [&](F f) {
    Features more = features;
    more.set(bit(f));
    more = closed(more);
    if ((more & ~offered).none() && worst_meeting(more) == Meeting::allowed) features = more;
  };
  // From a random start, so that of two features that exclude each other either may come first.
  const int64_t start = random.below(feature_count);
  for (int n = 0; n < feature_count; ++n) {
    const auto f = static_cast<F>((start + n) % feature_count);
    if (random.chance(feature_entries[bit(f)].chance)) add_if_possible(f);
  }
  // A problem has exactly one dtype: one that is set already keeps the others out.
  std::vector<F> dtypes;
  for (const F f : {F::fp32, F::fp16, F::bf16}) {
    if (offered[bit(f)]) dtypes.push_back(f);
  }
  const auto first = static_cast<size_t>(random.below(static_cast<int64_t>(dtypes.size())));
  for (size_t n = 0; n < dtypes.size(); ++n) add_if_possible(dtypes[(first + n) % dtypes.size()]);
  return features;
}

void PairTable::add(const Features& features) {
  for (int a = 0; a < feature_count; ++a) {
    for (int b = 0; b <= a; ++b) count_[a][b] += features[a] && features[b] ? 1 : 0;
  }
}

std::vector<std::string> PairTable::missed() const {
  std::vector<std::string> pairs;
  for (const Pair& pair : allowed_pairs(offered_)) {
    if (count_[bit(pair.a)][bit(pair.b)] == 0) pairs.push_back(check::text(pair));
  }
  return pairs;
}

std::string PairTable::text() const {
  std::string text = fmt::format("{:>23}", "");
  std::string absent;
  for (int b = 0; b < feature_count; ++b) {
    if (offered_[b]) text += fmt::format("{:>5}", b + 1);
  }
  for (int a = 0; a < feature_count; ++a) {
    if (!offered_[a]) {
      absent += fmt::format(" {}", feature_entries[a].name);
      continue;
    }
    text += fmt::format("\n{:>3} {:<19}", a + 1, feature_entries[a].name);
    for (int b = 0; b <= a; ++b) {
      if (!offered_[b]) continue;
      const Pair pair{static_cast<F>(a), static_cast<F>(b)};
      const Meeting m = meeting(pair.a, pair.b);
      const char* no = m == Meeting::refused ? "no" : "-";
      const bool offered = (with_needs(pair) & ~offered_).none();
      text += m == Meeting::allowed && offered ? fmt::format("{:>5}", count_[a][b])
                                               : fmt::format("{:>5}", no);
    }
  }
  text += "\n(no: must be refused; -: cannot meet; the diagonal counts problems)\n";
  if (!absent.empty()) text += fmt::format("(not asked of this device:{})\n", absent);
  return text;
}

}  // namespace fa::check
