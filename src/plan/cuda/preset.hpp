// The kernels that programs of a kind will ask for, to be compiled ahead into a bundle.
#pragma once

#include <string>
#include <vector>

#include "plan/cuda/kernel_spec.hpp"

namespace fa {

/// Names of the presets.
std::vector<std::string> presets();

/// Each kernel once, for an architecture of `known_gpus`. Throws Error (invalid_argument) naming
/// `preset` or `arch` and what is allowed.
std::vector<KernelSpec> preset_kernels(const std::string& preset, const std::string& arch);

}  // namespace fa
