// Looks for NaN and infinity in the inputs of a run.
#pragma once

#include "fa/attention.hpp"
#include "run/inputs.hpp"

namespace fa::cli {

/// Results of NaN and infinity cannot be held against float64: throws UsageError naming the flag of
/// an input that holds any, except where it masks (-inf of some options) and beyond the used
/// lengths, where nothing is read. `args` are those of `in`, found valid by the library.
void refuse_non_finite(const RunInputs& in, const BackwardArgs& args);

}  // namespace fa::cli
