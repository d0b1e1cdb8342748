// The forward kernel without one of the paper's ideas at a time, for docs/kernels.md's ablation.
#pragma once

#include <string>
#include <vector>

#include "plan/cuda_plan.hpp"

namespace fa::bench {

struct Variant {
  std::string name;
  std::string meaning;
  CudaTuning tuning;
};

/// The plan's own way comes first. Where an idea asks for other tiles there are several of one
/// name: the fastest counts. What does not fit the GPU is left out.
std::vector<Variant> variants(const Problem& problem, const GpuLimits& gpu);

}  // namespace fa::bench
