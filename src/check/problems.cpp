#include "check/problems.hpp"

#include <algorithm>
#include <utility>

#include "check/random.hpp"

namespace fa::check {
namespace {

// Keeps a configuration's numbers apart from those of problem and case.
constexpr uint64_t configuration_stream = 0xc0f1;

// The best of this many random candidates is taken: the one with the most new pairs (Cohen et al.,
// The AETG system, 1997). All pairs of 31 features then meet in fewer than 30 configurations.
constexpr int candidates = 30;

bool has(const Features& features, Pair pair) {
  return features[bit(pair.a)] && features[bit(pair.b)];
}

void shuffle(std::vector<Pair>& pairs, Random& random) {
  for (size_t n = pairs.size(); n > 1; --n) {
    std::swap(pairs[n - 1], pairs[static_cast<size_t>(random.below(static_cast<int64_t>(n)))]);
  }
}

}  // namespace

Problems::Problems(uint64_t seed, const Offer& offer, int64_t configurations)
    : seed_(seed), offer_(offer), pairs_(allowed_pairs(offer.features)) {
  if (configurations > 0) choose(configurations);
}

void Problems::choose(int64_t configurations) {
  Random random(seed_ ^ configuration_stream);
  std::vector<Pair> open = pairs_;
  shuffle(open, random);
  while (static_cast<int64_t>(features_.size()) < configurations) {
    // Once every pair has met, any may meet again.
    const Pair wanted =
        open.empty()
            ? pairs_[static_cast<size_t>(random.below(static_cast<int64_t>(pairs_.size())))]
            : open.front();
    Features best;
    int64_t most = -1;
    for (int n = 0; n < candidates; ++n) {
      const Features drawn = draw_features(wanted, offer_.features, random);
      const int64_t met =
          std::count_if(open.begin(), open.end(), [&](Pair p) { return has(drawn, p); });
      if (met > most) {
        most = met;
        best = drawn;
      }
    }
    features_.push_back(best);
    std::erase_if(open, [&](Pair p) { return has(best, p); });
  }
  never_asked_ = open;
}

Spec Problems::draw(int64_t index) const {
  Random random(seed_, static_cast<uint64_t>(index));
  const size_t configuration = features_.empty() ? static_cast<size_t>(index)
                                                 : static_cast<size_t>(index) % features_.size();
  // A third of the configurations names the family that serves every GPU: others take its problems.
  // Of another third the backward passes name sm90, which serves some of them only then.
  const size_t third = configuration % 3;
  const auto draw = [&](Features features, Random& fixed) {
    const bool named = third == 1 && offer_.sm90 != nullptr && features[bit(Feature::backward)] &&
                       !features[bit(Feature::wide)];
    // Half of these have more than 128 columns, for which it has not every option.
    const bool wide = named && configuration / 3 % 2 == 1;
    const Offer& offer = wide ? *offer_.sm90_wide : named ? *offer_.sm90 : offer_;
    if (wide && features[bit(Feature::dbias)]) features.reset(bit(Feature::softcap));
    Spec spec = draw_spec(offer, features, fixed, random);
    if (named) spec.family = Family::sm90;
    return spec;
  };
  Spec spec;
  if (features_.empty()) {
    const Pair pair = pairs_[static_cast<size_t>(index) % pairs_.size()];
    spec = draw(draw_features(pair, offer_.features, random), random);
  } else {
    Random fixed(seed_ ^ configuration_stream, configuration);
    spec = draw(features_[configuration], fixed);
  }
  spec.seed = seed_;
  spec.index = index;
  if (offer_.has_families && third == 2) spec.family = Family::sm80;
  return spec;
}

}  // namespace fa::check
