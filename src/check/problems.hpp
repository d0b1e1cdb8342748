// Random problems. Seed and index determine one completely.
#pragma once

#include <cstdint>
#include <vector>

#include "check/features.hpp"
#include "check/offer.hpp"
#include "check/spec.hpp"

namespace fa::check {

/// The host's problems are each drawn on their own. A device compiles a kernel for everything that
/// a plan depends on, so that its problems share a number of configurations: problem n has
/// configuration n % count; shapes, lengths, magnitudes and contents are its own. Configurations
/// are chosen so that all allowed pairs of features meet in some tens of them.
class Problems {
 public:
  /// configurations: 0 for the host's way.
  Problems(uint64_t seed, const Offer& offer, int64_t configurations);

  /// Problem `index`. With configurations 0 it has the pair of features whose number is the index
  /// modulo the number of allowed pairs.
  Spec draw(int64_t index) const;
  int64_t configurations() const { return static_cast<int64_t>(features_.size()); }
  /// Allowed pairs that no configuration asks for: there are too few of them.
  const std::vector<Pair>& never_asked() const { return never_asked_; }

 private:
  void choose(int64_t configurations);

  uint64_t seed_;
  const Offer& offer_;
  std::vector<Pair> pairs_;  ///< that are allowed
  std::vector<Features> features_;
  std::vector<Pair> never_asked_;
};

}  // namespace fa::check
