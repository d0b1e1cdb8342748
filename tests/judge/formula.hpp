// What docs/numerics.md says an output should be, and how far off it may be.
#pragma once

#include <cstdint>
#include <vector>

#include "problem.hpp"

namespace judge {

// One output, row by row. Each element has three numbers: the formula in double, the formula with
// each step rounded to the dtype, and the sums over absolute values.
struct Expected {
  std::vector<double> exact;
  std::vector<double> plain;
  std::vector<double> size;

  void reset(const Tensor& tensor, double value = 0) {
    const auto n = static_cast<size_t>(tensor.given() ? tensor.elements() : 0);
    exact.assign(n, value);
    plain.assign(n, value);
    size.assign(n, 0);
  }
};

struct Expectation {
  Expected out, lse, dq, dk, dv, dbias, dsinks;
  // Between which values of V each element of out lies; equal infinities where nothing is known.
  std::vector<double> lowest;
  std::vector<double> highest;
  int64_t fewest_keys = 0;  // that a row which counts sees
  int64_t most_keys = 0;
  int64_t undecided = 0;  // rows whose weights float32 cannot know to within 1/8
};

Expectation expect(const Problem& problem);

}  // namespace judge
