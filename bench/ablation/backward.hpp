// The backward pass with one of its ways left out at a time, for docs/kernels.md's ablation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/cuda_backward_plan.hpp"
#include "timing/contest.hpp"

namespace fa::bench {

struct BackwardVariant {
  std::string name;
  std::string meaning;
  BackwardTuning tuning;
};

/// The plan's own way comes first. What a problem's plan does not do cannot be left out of it, and
/// what does not fit the GPU is left out as well.
std::vector<BackwardVariant> backward_variants(const Problem& problem, const GpuLimits& gpu);

struct BackwardShape {
  int64_t head_dim, seqlen, batch, heads_q, heads_k;
  bool causal;

  double flops() const;
};

/// One problem, its variants and what was found of each.
struct BackwardCell {
  BackwardShape shape;
  std::vector<BackwardVariant> variants;
  std::vector<double> differences;                ///< the largest of dq, dk and dv, from the first
  std::vector<std::vector<double>> milliseconds;  ///< of each variant, round by round

  bool right(size_t variant) const;
  double median(size_t variant) const;
  double tflops(size_t variant) const { return shape.flops() / median(variant) * 1e-9; }
};

/// `tensors` hold 16k tokens of hidden size 2048 at least; their LSE 16k times 128 numbers.
std::vector<BackwardCell> run_backward(Tensors& tensors, int rounds, std::mt19937_64& random);

}  // namespace fa::bench
