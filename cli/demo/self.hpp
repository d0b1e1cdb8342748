// Starts this program once more.
#pragma once

#include <string>
#include <vector>

namespace fa::cli {

/// Runs `fa` with `arguments` and returns what it wrote to stdout. Throws std::runtime_error when
/// it cannot be started or fails.
std::string run_self(const std::vector<std::string>& arguments);

}  // namespace fa::cli
