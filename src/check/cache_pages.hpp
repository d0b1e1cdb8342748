// The pages of a cache in which the keys of a random problem lie.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "check/array.hpp"
#include "check/random.hpp"
#include "check/spec.hpp"

namespace fa::check {

/// Pages of each sequence in a random order; some sequences share their first ones. Where no key
/// counts, the table has numbers of no page.
struct CachePages {
  int64_t count = 0;  ///< of the cache
  IntArray<int32_t> table;
  std::array<int64_t, 2> shape{};  ///< [batch, pages of a sequence]

  /// None where the problem has no pages.
  CachePages(const Spec& spec, Random& random);
  Tensor tensor() const;
  /// For each row of the cache, whether it has a key that counts.
  std::vector<bool> counting_rows(const Spec& spec) const;
};

}  // namespace fa::check
