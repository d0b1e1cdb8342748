// Problems of the backward pass's ablation, timed.
#pragma once

#include <cstdint>
#include <vector>

#include "ablation/variants.hpp"
#include "timing/contest.hpp"

namespace fa::bench {

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

/// `tensors` hold 16k tokens of hidden size 2048 at least, and LSE of 32 heads.
std::vector<BackwardCell> run_backward(Tensors& tensors, int rounds, std::mt19937_64& random);

}  // namespace fa::bench
