#include "check/verdict.hpp"

#include <fmt/format.h>

#include <cmath>

#include "reference/number.hpp"

namespace fa::check {
namespace {

/// The 2-norm, of numbers whose squares may overflow as well.
double norm(const std::vector<double>& x) {
  double largest = 0;
  for (const double v : x) largest = std::fmax(largest, std::fabs(v));
  if (largest == 0 || std::isinf(largest)) return largest;
  double sum = 0;
  for (const double v : x) sum += v / largest * (v / largest);
  return largest * std::sqrt(sum);
}

/// a - b; where both are the same infinity, 0.
std::vector<double> difference(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> d(a.size());
  for (size_t i = 0; i < a.size(); ++i) d[i] = a[i] == b[i] ? 0 : a[i] - b[i];
  return d;
}

/// The first value that is farther from the exact one than twice the bound of its own; where the
/// dtype's numbers no longer come closer to each other, one step more.
std::string far_off(const std::vector<double>& values, const Expected& expected, double eps,
                    double step) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == expected.exact[i]) continue;
    const double plain = std::fabs(expected.plain[i] - expected.exact[i]);
    const double bound = (std::isfinite(plain) ? 2 * plain : 0) + 4 * eps * expected.abs[i];
    if (!(std::fabs(values[i] - expected.exact[i]) <= 2 * bound + step)) {
      return fmt::format("element {} is {:.9g}, expected {:.9g}, bound {:.3g}", i, values[i],
                         expected.exact[i], bound);
    }
  }
  return {};
}

/// A description of the first value that is a NaN, or infinite where it should not be.
std::string not_finite(const std::vector<double>& values, const std::vector<double>& exact) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i]) ||
        (values[i] != exact[i] && (std::isinf(values[i]) || std::isinf(exact[i])))) {
      return fmt::format("element {} is {}, expected {}", i, values[i], exact[i]);
    }
  }
  return {};
}

}  // namespace

void Verdict::compare(const char* tensor, DType dtype, const std::vector<double>& values,
                      const Expected& expected) {
  if (values.size() != expected.exact.size()) {
    return fail(
        fmt::format("{}: {} values, expected {}", tensor, values.size(), expected.exact.size()));
  }
  if (const std::string what = not_finite(values, expected.exact); !what.empty()) {
    return fail(fmt::format("{}: {}", tensor, what));
  }
  const double eps = reference::epsilon(dtype);
  const double step = eps * reference::smallest_normal(dtype);
  if (const std::string what = far_off(values, expected, eps, step); !what.empty()) {
    fail(fmt::format("{}: {}", tensor, what));
  }
  const double error = norm(difference(values, expected.exact));
  const double plain = norm(difference(expected.plain, expected.exact));
  const double sums = eps * norm(expected.abs);
  // Where the plain formula itself overflows, it tells nothing.
  const double bound = (std::isfinite(plain) ? 2 * plain : 0) + 4 * sums;
  const double ratio = error == 0 ? 0 : error / bound;
  if (ratio > worst_ratio_) {
    worst_ratio_ = ratio;
    worst_tensor_ = tensor;
  }
  if (!(ratio <= 1)) {
    fail(fmt::format(
        "{}: error {:.3g} of {:.3g}, bound {:.3g} (plain error {:.3g}, eps * sums {:.3g})", tensor,
        error, norm(expected.exact), bound, plain, sums));
  }
}

void Verdict::compare_relative(const char* tensor, const std::vector<double>& values,
                               const std::vector<double>& exact, double limit) {
  const double error = norm(difference(values, exact)) / norm(exact);
  if (!(error <= limit)) {
    fail(fmt::format("{}: relative error {:.3g}, limit {:.3g}", tensor, error, limit));
  }
}

}  // namespace fa::check
