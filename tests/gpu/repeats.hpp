// A pass launched again and again, for races and hangs that one launch in thousands shows.
#pragma once

#include <cstdint>
#include <vector>

#include "check/generate.hpp"

namespace fa::test {

/// FA_LAUNCHES: of each problem. tools/gpu_test asks for many.
int64_t launches();

/// How many of launches() of the case's pass leave other bits in these outputs than the first one
/// did. They are poisoned before each launch. The device compares, so that the host only launches.
int64_t launches_that_differ(const check::Case& c, const std::vector<const check::Array*>& outputs);

}  // namespace fa::test
