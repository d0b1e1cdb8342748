// The backward kernel with one of its ways left out at a time, for docs/kernels.md's ablation.
#pragma once

#include <string>
#include <vector>

#include "plan/cuda_backward_plan.hpp"

namespace fa::bench {

struct BackwardVariant {
  std::string name;
  std::string meaning;
  BackwardTuning tuning;
};

/// The plan's own way comes first. What a problem's plan does not do cannot be left out of it, and
/// what does not fit the GPU is left out as well.
std::vector<BackwardVariant> backward_variants(const Problem& problem, const GpuLimits& gpu);

}  // namespace fa::bench
