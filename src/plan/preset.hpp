// Lists of kernels that are compiled ahead into a bundle.
#pragma once

#include <string>
#include <vector>

#include "plan/kernel_spec.hpp"

namespace fa {

/// The names of the lists: "llm".
std::vector<std::string> presets();

/// The kernels of a list for an architecture ("sm_90a").
std::vector<KernelSpec> preset_kernels(const std::string& preset, const std::string& arch);

}  // namespace fa
