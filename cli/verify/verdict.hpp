// Results against float64, for the terminal.
#pragma once

#include <string>
#include <vector>

#include "check/verdict.hpp"

namespace fa::cli {

using Verdict = check::TensorVerdict;

/// A table, one line for each tensor.
std::string to_text(const std::vector<Verdict>& verdicts);

}  // namespace fa::cli
