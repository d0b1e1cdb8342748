// One problem of the ablation, run in every variant: held against the plan's own way, then timed.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ablation/tensors.hpp"
#include "ablation/variants.hpp"
#include "cuda/passes.hpp"
#include "problem/problem.hpp"

namespace fa::bench {

struct Shape {
  int64_t head_dim;
  int64_t seqlen;
  bool causal;

  int64_t heads() const { return hidden / head_dim; }
  int64_t batch() const { return tokens / seqlen; }
  /// As the paper counts: half of them under a causal mask.
  double flops() const;
};

/// What was found of a variant.
struct Found {
  Variant variant;
  double out_difference = 0;  ///< relative, from the plan's own way
  double lse_difference = 0;
  std::vector<double> milliseconds;  ///< of the device, each round

  bool right() const;
  double median() const;
};

class Cell {
 public:
  Cell(const Shape& shape, const Tensors& tensors, int device);

  const Shape& shape() const { return shape_; }
  /// For the kernels of all cells to be compiled at once.
  std::vector<KernelSpec> kernels() const;
  void check();
  /// Each variant once, in shuffled order; a first round warms up.
  void time(int rounds, std::mt19937_64& random);
  const std::vector<Found>& found() const { return found_; }

 private:
  void run(const cuda::Planned& plan) const { plan.run(call_, tensors_.stream()); }

  Shape shape_;
  const Tensors& tensors_;
  int device_;
  Call call_;
  std::vector<std::shared_ptr<const cuda::Planned>> plans_;
  std::vector<Found> found_;
};

}  // namespace fa::bench
