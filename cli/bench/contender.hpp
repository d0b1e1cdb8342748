// A cell with its tensors, ready to be timed.
#pragma once

#include <array>
#include <vector>

#include "bench/buffers.hpp"
#include "bench/cell.hpp"
#include "support/io/array.hpp"
#include "verify/verdict.hpp"

namespace fa::cli {

class Contender {
 public:
  Contender(Cell cell, Buffers& buffers, int threads);

  const Cell& cell() const { return cell_; }
  /// Runs once and compares a sample with float64; also the warm-up.
  std::vector<Verdict> verify();
  /// Seconds of one call; short ones are repeated and averaged.
  double time();

 private:
  Tensor queries(std::byte* data) const { return view(data, q_shape_); }
  Tensor keys(std::byte* data) const { return view(data, k_shape_); }
  Tensor view(std::byte* data, const std::array<int64_t, 4>& shape) const;
  BackwardArgs next_args();
  void call(const BackwardArgs& args);

  Cell cell_;
  Buffers& buffers_;
  Options options_;
  std::array<int64_t, 4> q_shape_;
  std::array<int64_t, 4> k_shape_;
  io::Array out_, lse_;  ///< its own: the backward pass reads what the forward pass left
};

}  // namespace fa::cli
