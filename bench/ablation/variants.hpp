// The kernels without one of their ideas, or ways, at a time, for the ablations in
// docs/kernels/learned.md.
#pragma once

#include <string>
#include <vector>

#include "plan/cuda_backward_plan.hpp"
#include "plan/cuda_plan.hpp"

namespace fa::bench {

template <typename Tuning>
struct VariantOf {
  std::string name;
  std::string meaning;
  Tuning tuning;
};
using Variant = VariantOf<CudaTuning>;
using BackwardVariant = VariantOf<BackwardTuning>;

/// The plan's own way comes first. Where an idea asks for other tiles there are several of one
/// name: the fastest counts. What does not fit the GPU is left out.
std::vector<Variant> variants(const Problem& problem, const GpuLimits& gpu);

/// Likewise. What a problem's plan does not do cannot be left out of it.
std::vector<BackwardVariant> backward_variants(const Problem& problem, const GpuLimits& gpu);

}  // namespace fa::bench
