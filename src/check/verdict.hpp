// What was found about one problem.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fa/attention.hpp"

namespace fa::check {

/// A tensor's true values and what bounds its error.
struct Expected {
  const std::vector<double>& exact;
  const std::vector<double>& plain;
  const std::vector<double>& abs;
};

class Verdict {
 public:
  /// Holds `values` against 2 ||plain - exact|| + 4 eps ||abs||, eps of `dtype`, and each of them
  /// against twice the same bound of its own. A value must be infinite where the exact one is, and
  /// nowhere else.
  void compare(const char* tensor, DType dtype, const std::vector<double>& values,
               const Expected& expected);
  /// ||values - exact|| <= limit ||exact||.
  void compare_relative(const char* tensor, const std::vector<double>& values,
                        const std::vector<double>& exact, double limit);
  void fail(std::string what) { failures_.push_back(std::move(what)); }

  double worst_ratio() const { return worst_ratio_; }
  const std::string& worst_tensor() const { return worst_tensor_; }
  const std::vector<std::string>& failures() const { return failures_; }

 private:
  double worst_ratio_ = 0;
  std::string worst_tensor_;
  std::vector<std::string> failures_;
};

}  // namespace fa::check
