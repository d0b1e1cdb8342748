// A pass launched again and again, for races and hangs that one launch in thousands shows.
#pragma once

#include <cstdint>
#include <vector>

#include "check/generate.hpp"

namespace fa::test {

/// FA_LAUNCHES: of each problem. tools/gpu_test asks for many.
int64_t launches();

/// An output, and whether all its bits must be the first launch's. Else its numbers, of 16 bits,
/// are sums in any order: they may be as far from the first launch's as rounding explains.
struct Repeated {
  const check::Array* output;
  bool exact = true;
};

/// How many of launches() of the case's pass leave other numbers in these outputs than the first
/// one did. They are poisoned before each launch. The device compares, so that the host only
/// launches.
int64_t launches_that_differ(const check::Case& c, const std::vector<Repeated>& outputs);

}  // namespace fa::test
