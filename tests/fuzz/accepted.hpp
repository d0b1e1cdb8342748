// How many inputs a fuzzer's target took as valid. A run without any fails: it would have seen
// refusals only.
#pragma once

namespace fa::fuzz {

/// Prints the counts when the process ends, which then fails unless something was accepted.
void judge_at_exit();

/// One input, and whether it was valid.
void count(bool valid);

/// Ends the process as a crash that libFuzzer keeps the input of, unless `right`.
void require(bool right, const char* what);

}  // namespace fa::fuzz
