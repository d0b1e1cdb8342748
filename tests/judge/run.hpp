// Calls the library over the C ABI and judges what comes back.
#pragma once

#include "problem.hpp"
#include "verdict.hpp"

namespace judge {

// Runs forward and backward of a problem.
void run_attention(Problem& problem, Count& count, Faults& faults);

// Draws and runs a merge.
void run_merge(uint64_t seed, uint64_t number, Count& count, Faults& faults);

}  // namespace judge
