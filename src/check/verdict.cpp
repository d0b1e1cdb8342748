#include "check/verdict.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "reference/number.hpp"

namespace fa::check {
namespace {

double relative(double error, double exact) { return error == 0 ? 0 : error / exact; }

}  // namespace

void Norm::add(double x) {
  const double size = std::fabs(x);
  if (size > largest_) {
    const double shrink = largest_ / size;
    sum_ = sum_ * shrink * shrink + 1;
    largest_ = size;
  } else if (size != 0) {
    sum_ += size / largest_ * (size / largest_);
  }
}

double Norm::value() const {
  return std::isinf(largest_) || sum_ == 0 ? largest_ : largest_ * std::sqrt(sum_);
}

void TensorVerdict::add(const Number& n) {
  const int64_t index = numbers_++;
  // The bound is for exact results that fit the dtype; one that does not must become its infinity.
  const float nearest = reference::rounded(dtype_, static_cast<float>(n.exact));
  if (std::isinf(nearest) && n.ours == nearest) return;
  const double eps = reference::epsilon(precision_);
  // A plain formula that overflows tells nothing.
  const double plain = std::isfinite(n.plain) ? n.plain - n.exact : 0;
  const double error = n.ours - n.exact;
  ours_.add(error);
  plain_.add(plain);
  exact_.add(n.exact);
  abs_.add(n.abs);
  // Below the normal numbers, the dtype's no longer come closer to each other: one step more.
  const double bound = 2 * std::fabs(plain) + 4 * eps * n.abs;
  const double step = eps * reference::smallest_normal(precision_);
  if (far_off_.empty() && !(std::fabs(error) <= 2 * bound + step)) {
    far_off_ = fmt::format("number {} is {:.9g}, expected {:.9g}, bound {:.3g}", index, n.ours,
                           n.exact, bound);
  }
}

double TensorVerdict::error() const { return relative(ours_.value(), exact_.value()); }

double TensorVerdict::plain_error() const { return relative(plain_.value(), exact_.value()); }

double TensorVerdict::bound() const {
  return 2 * plain_.value() + 4 * reference::epsilon(precision_) * abs_.value();
}

double TensorVerdict::ratio() const {
  const double ratio = relative(ours_.value(), bound());
  return std::isnan(ratio) ? std::numeric_limits<double>::infinity() : ratio;
}

std::string TensorVerdict::problem() const {
  if (!far_off_.empty() || right()) return far_off_;
  return fmt::format("error {:.3g} of {:.3g}, bound {:.3g} (plain error {:.3g})", ours_.value(),
                     exact_.value(), bound(), plain_.value());
}

double relative_limit(DType dtype) {
  if (dtype == bfloat16) return 2e-2;
  return dtype == float16 ? 3e-3 : 1e-5;
}

void Verdict::add(const TensorVerdict& tensor) {
  if (tensor.ratio() > worst_ratio_) {
    worst_ratio_ = tensor.ratio();
    worst_tensor_ = tensor.tensor();
  }
  if (!tensor.right()) fail(fmt::format("{}: {}", tensor.tensor(), tensor.problem()));
}

}  // namespace fa::check
