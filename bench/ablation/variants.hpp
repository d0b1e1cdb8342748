// The kernels without one of their ways at a time, for the ablations in docs/kernels/learned.md.
#pragma once

#include <string>
#include <vector>

#include "plan/cuda/backward.hpp"
#include "plan/cuda/forward.hpp"

namespace fa::bench {

template <typename Tuning>
struct VariantOf {
  std::string name;
  std::string meaning;
  Tuning tuning;
};
using Variant = VariantOf<ForwardTuning>;
using BackwardVariant = VariantOf<BackwardTuning>;

/// The plan's own way comes first.
std::vector<Variant> variants(const Problem& problem, const GpuLimits& gpu);

/// Variants of the backward kernel. They leave out only what the problem's plan does.
std::vector<BackwardVariant> backward_variants(const Problem& problem, const GpuLimits& gpu);

}  // namespace fa::bench
