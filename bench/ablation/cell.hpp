// One problem of the ablation and its variants, the plan's own way first.
#pragma once

#include <cstdint>
#include <vector>

#include "ablation/variants.hpp"
#include "timing/contest.hpp"

namespace fa::bench {

inline constexpr int64_t tokens = 16384;  ///< batch * seqlen
inline constexpr int64_t hidden = 2048;   ///< heads * head_dim

struct Shape {
  int64_t head_dim;
  int64_t seqlen;
  bool causal;

  int64_t heads() const { return hidden / head_dim; }
  int64_t batch() const { return tokens / seqlen; }
  /// As the papers count: half of all pairs under a causal mask.
  double flops() const;
};

class Cell {
 public:
  Cell(const Shape& shape, const Tensors& tensors);

  const Shape& shape() const { return shape_; }
  const std::vector<Variant>& variants() const { return variants_; }
  Contest& contest() { return contest_; }
  /// The results of a variant.
  const Measured& measured(size_t variant) const { return contest_.measured()[variant]; }
  double tflops(size_t variant) const { return shape_.flops() / measured(variant).median() * 1e-9; }

 private:
  Cell(const Shape& shape, const Tensors& tensors, const Call& call);

  Shape shape_;
  std::vector<Variant> variants_;
  Contest contest_;
};

}  // namespace fa::bench
