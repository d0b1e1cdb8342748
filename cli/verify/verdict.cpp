#include "verify/verdict.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "common/text.hpp"
#include "reference/number.hpp"

namespace fa::cli {
namespace {

double relative(double error2, double exact2) {
  if (error2 == 0) return 0;
  return std::sqrt(error2 / exact2);
}

}  // namespace

void Verdict::add(double ours, double exact, double plain, double scale) {
  ++numbers_;
  // Infinities (LSE of an empty row) must be met exactly; inf - inf would be NaN.
  if (ours != exact) ours_ += (ours - exact) * (ours - exact);
  if (!std::isfinite(exact)) return;
  if (std::isfinite(plain)) plain_ += (plain - exact) * (plain - exact);
  exact_ += exact * exact;
  scale_ += scale * scale;
}

double Verdict::error() const { return relative(ours_, exact_); }

double Verdict::plain_error() const { return relative(plain_, exact_); }

double Verdict::ratio() const {
  if (ours_ == 0) return 0;
  const double bound = 2 * std::sqrt(plain_) + 4 * reference::epsilon(dtype_) * std::sqrt(scale_);
  const double ratio = std::sqrt(ours_) / bound;
  return std::isnan(ratio) ? std::numeric_limits<double>::infinity() : ratio;
}

double normal_limit(DType dtype) {
  if (dtype == bfloat16) return 2e-2;
  return dtype == float16 ? 3e-3 : 1e-5;
}

std::string to_text(const std::vector<Verdict>& verdicts) {
  std::string text = fmt::format("{:<8} {:<9} {:>10} {:>14} {:>14}\n", "tensor", "dtype", "error",
                                 "plain formula", "error / bound");
  for (const Verdict& v : verdicts) {
    text += fmt::format("{:<8} {:<9} {:>10.2e} {:>14.2e} {:>14.3f}{}\n", v.tensor(),
                        dtype_text(v.dtype()), v.error(), v.plain_error(), v.ratio(),
                        v.right() ? "" : "  WRONG");
  }
  return text;
}

}  // namespace fa::cli
