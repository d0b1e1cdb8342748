#include "plan/cuda/family.hpp"

#include <fmt/format.h>

#include <utility>

#include "plan/cuda/sm80/kernels.hpp"
#include "plan/cuda/sm90/kernels.hpp"
#include "problem/argument.hpp"

namespace fa {

namespace {

/// A family's two functions.
struct Offer {
  Family family;
  std::string_view name;
  Offered<ForwardKernel> (*forward)(const Problem&, const GpuLimits&);
  Offered<BackwardKernel> (*backward)(const Problem&, const GpuLimits&);
};

/// The fastest first.
constexpr Offer offers[] = {{Family::sm90, "sm90", sm90::forward, sm90::backward},
                            {Family::sm80, "sm80", sm80::forward, sm80::backward}};

template <typename Kernel>
Kernel first_that_serves(const Problem& p, const GpuLimits& gpu,
                         Offered<Kernel> (*Offer::*pass)(const Problem&, const GpuLimits&)) {
  std::string text;
  for (const Offer& offer : offers) {
    if (p.run.family != Family::automatic && p.run.family != offer.family) continue;
    Offered<Kernel> offered = (offer.*pass)(p, gpu);
    if (!offered.kernel) {
      if (p.run.family == offer.family) {
        fail(Status::unsupported, "family", "is {}, which does not serve here: {}", offer.name,
             offered.refusal);
      }
      text += fmt::format("not family {}: {}\n", offer.name, offered.refusal);
      continue;
    }
    offered.kernel->text = fmt::format("family: {}\n{}{}", offer.name, text, offered.kernel->text);
    return *std::move(offered.kernel);
  }
  fail(Status::internal, "family", "has no kernel");  // sm80 serves or throws
}

}  // namespace

ForwardKernel forward_kernel(const Problem& problem, const GpuLimits& gpu) {
  return first_that_serves(problem, gpu, &Offer::forward);
}

BackwardKernel backward_kernel(const Problem& problem, const GpuLimits& gpu) {
  return first_that_serves(problem, gpu, &Offer::backward);
}

}  // namespace fa
