#include "plan/cuda/family.hpp"

#include <optional>
#include <utility>

#include "plan/cuda/sm80/kernels.hpp"
#include "problem/argument.hpp"

namespace fa {

namespace {

/// A family's two functions.
struct Offer {
  Family family;
  std::optional<ForwardKernel> (*forward)(const Problem&, const GpuLimits&);
  std::optional<BackwardKernel> (*backward)(const Problem&, const GpuLimits&);
};

/// The fastest first.
constexpr Offer offers[] = {{Family::sm80, sm80::forward, sm80::backward}};

template <typename Kernel>
Kernel first_that_serves(const Problem& p, const GpuLimits& gpu,
                         std::optional<Kernel> (*Offer::*pass)(const Problem&, const GpuLimits&)) {
  for (const Offer& offer : offers) {
    if (p.run.family != Family::automatic && p.run.family != offer.family) continue;
    if (auto kernel = (offer.*pass)(p, gpu)) return *std::move(kernel);
  }
  fail(Status::unsupported, "family", "is {}; this build has sm80's kernels for CUDA devices",
       p.run.family == Family::sm90 ? "sm90" : "automatic");
}

}  // namespace

ForwardKernel forward_kernel(const Problem& problem, const GpuLimits& gpu) {
  return first_that_serves(problem, gpu, &Offer::forward);
}

BackwardKernel backward_kernel(const Problem& problem, const GpuLimits& gpu) {
  return first_that_serves(problem, gpu, &Offer::backward);
}

}  // namespace fa
