// The verdict on one tensor and on one problem. The error bound is defined here.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "fa/attention.hpp"

namespace fa::check {

/// A 2-norm, of numbers whose squares may overflow.
class Norm {
 public:
  void add(double x);
  double value() const;

 private:
  double largest_ = 0;
  double sum_ = 0;  ///< of squares, the largest taken as 1
};

/// A number of a result and what is known of it.
struct Number {
  double ours, exact, plain;
  double abs;  ///< the same sum over absolute values
};

/// Holds a tensor, or a sample of its numbers, against 2 ||plain - exact|| + 4 eps ||abs||, and
/// each number against twice the same bound of its own.
class TensorVerdict {
 public:
  /// `dtype` is the type of the numbers. `precision` gives eps: q's type also for gradients that
  /// are stored as float32, since O, which they depend on, was rounded to it.
  TensorVerdict(std::string tensor, DType dtype, DType precision)
      : tensor_(std::move(tensor)), dtype_(dtype), precision_(precision) {}

  void add(const Number& number);

  const std::string& tensor() const { return tensor_; }
  DType dtype() const { return dtype_; }
  int64_t numbers() const { return numbers_; }
  double error() const;  ///< relative to the norm of the exact result
  double plain_error() const;
  /// error / bound of the whole: at most 1 when right. NaN, and an infinity that the exact result
  /// does not round to, give infinity.
  double ratio() const;
  bool right() const { return far_off_.empty() && ratio() <= 1; }
  std::string problem() const;  ///< empty when right

 private:
  double bound() const;

  std::string tensor_;
  DType dtype_;
  DType precision_;
  int64_t numbers_ = 0;
  Norm ours_, plain_, exact_, abs_;  ///< of ours - exact, plain - exact, exact and abs
  std::string far_off_;              ///< the first number beyond twice its own bound
};

/// The largest relative error of standard-normal inputs with at least 64 keys.
double relative_limit(DType dtype);

class Verdict {
 public:
  void add(const TensorVerdict& tensor);
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
