// Results against float64: the bound of docs/numerics.md, "Error".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fa/attention.hpp"

namespace fa::cli {

/// What is known of one tensor, or of a sample of its rows; errors are Frobenius norms.
class Verdict {
 public:
  Verdict(std::string tensor, DType dtype) : tensor_(std::move(tensor)), dtype_(dtype) {}

  /// `scale` is the sum of absolute values that the number is made of, or anything smaller.
  void add(double ours, double exact, double plain, double scale);

  const std::string& tensor() const { return tensor_; }
  DType dtype() const { return dtype_; }
  int64_t numbers() const { return numbers_; }
  double error() const;  ///< relative to the norm of the exact result
  double plain_error() const;
  /// error / bound: at most 1 when right. NaN, and an infinity of our own, give infinity.
  double ratio() const;
  bool right() const { return ratio() <= 1; }

 private:
  std::string tensor_;
  DType dtype_;
  int64_t numbers_ = 0;
  double ours_ = 0;  ///< sums of squares: ||ours - exact||^2 and so on
  double plain_ = 0;
  double exact_ = 0;
  double scale_ = 0;
};

/// The largest relative error of standard-normal inputs with at least 64 keys.
double normal_limit(DType dtype);

/// A table, one line for each tensor, for the terminal.
std::string to_text(const std::vector<Verdict>& verdicts);

}  // namespace fa::cli
