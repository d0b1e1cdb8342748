// Calls that must give the very bits of the first: once more, with other threads, through a plan,
// one sequence at a time. Each expects the outputs of a finished call in `c` and leaves them there.
#pragma once

#include <cstdint>

#include "check/generate.hpp"
#include "check/place.hpp"
#include "check/verdict.hpp"

namespace fa::check {

/// Makes the same call again.
void check_again(const Case& c, Place& place, Verdict& verdict);

/// Again with other numbers of threads.
void check_threads(const Case& c, Place& place, Verdict& verdict);

/// Again through plan_forward and plan_backward, in a workspace of just the size they ask for.
void check_plan(const Case& c, Place& place, Verdict& verdict);

/// Each sequence of the batch in a call of its own. What is summed over the batch is not compared.
/// Where the device does not promise the same bits, the results replace those of the whole call in
/// `c`, to be judged in their place. Dropout numbers sequences within the call: left out unless the
/// offset can make up for it.
bool can_stand_alone(const Spec& spec);
bool same_bits_alone(const Spec& spec);
void check_alone(const Case& c, Place& place, Verdict& verdict);

}  // namespace fa::check
