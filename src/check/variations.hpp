// Calls that must give the very bits of the first: other threads, a plan, one sequence at a time.
// Each expects the outputs of a finished call in `c` and leaves them there.
#pragma once

#include <cstdint>

#include "check/generate.hpp"
#include "check/verdict.hpp"

namespace fa::check {

/// Again with other numbers of threads.
void check_threads(const Case& c, Verdict& verdict);

/// Again through plan_forward and plan_backward, in a workspace of just the size they ask for.
void check_plan(const Case& c, Verdict& verdict);

/// Each sequence of the batch in a call of its own. What is summed over the batch is not compared.
/// Dropout numbers sequences within the call: left out unless the offset can make up for it.
bool can_stand_alone(const Spec& spec);
void check_alone(const Case& c, Verdict& verdict);

}  // namespace fa::check
