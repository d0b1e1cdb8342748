// What callers do wrong.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include "problem.hpp"

namespace fa::fuzz {

/// Puts at most two mistakes into a valid call, half of the time none, and then gives the tensors
/// their memory: as much as they say, whatever that has become.
void spoil(Problem& problem, FuzzedDataProvider& data);

}  // namespace fa::fuzz
