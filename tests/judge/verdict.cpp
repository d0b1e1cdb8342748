#include "verdict.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace judge {

namespace {

std::string place(const char* name, const Tensor& tensor, int64_t n) {
  std::ostringstream s;
  s << name << "[";
  const Tensor::Index i = tensor.index(n);
  for (int d = 0; d < tensor.dims(); ++d) s << (d > 0 ? ", " : "") << i[static_cast<size_t>(d)];
  s << "]";
  return s.str();
}

}  // namespace

void Count::add(const Count& other) {
  problems += other.problems;
  failed += other.failed;
  undecided_rows += other.undecided_rows;
  infinite += other.infinite;
  for (const auto& [what, n] : other.met) met[what] += n;
  for (const auto& [dtype, outputs] : other.worst) {
    for (const auto& [name, found] : outputs) {
      Worst& mine = worst[dtype][name];
      if (found.ratio > mine.ratio) mine = found;
    }
  }
}

void Judge::note(const char* name, double ratio) {
  Worst& worst = count_.worst[dtype_][name];
  if (ratio > worst.ratio) worst = {ratio, problem_};
}

void Judge::compare(const char* name, const Tensor& tensor, const Expected& expected, double eps,
                    double half_step) {
  if (!tensor.given()) return;
  double error = 0;
  double plain_error = 0;
  double size = 0;
  double steps = 0;
  double worst = 0;
  std::ostringstream first;
  std::vector<double> row(static_cast<size_t>(tensor.columns()));
  const int64_t elements = tensor.elements();
  for (int64_t n = 0; n < elements; ++n) {
    const auto e = static_cast<size_t>(n);
    if (e % row.size() == 0) tensor.read_row(tensor.index(n), row.data());
    const double x = row[e % row.size()];
    const double exact = expected.exact[e];
    const double off = std::abs(expected.plain[e] - exact);
    const double half = expected.size[e] > 0 ? half_step : 0;
    const double bound = 2 * (2 * off + 4 * eps * expected.size[e] + half);
    if (std::isinf(exact)) {  // the LSE of no keys
      if (x != exact) {
        worst = HUGE_VAL;
        if (first.str().empty())
          first << place(name, tensor, n) << " is " << x << ", not " << exact;
      }
      continue;
    }
    if (std::isinf(x) && (x > 0 ? exact + bound : bound - exact) >= tensor.format().largest()) {
      ++count_.infinite;
      continue;
    }
    const double distance = std::abs(x - exact);
    if (!(distance <= bound)) {  // NaN too
      if (first.str().empty()) {
        first << place(name, tensor, n) << " is " << x << ", exact " << exact << ", off "
              << distance << ", bound " << bound << " (plain off " << off << ", size "
              << expected.size[e] << ")";
      }
      worst = std::isfinite(distance) && bound > 0 ? std::max(worst, distance / bound) : HUGE_VAL;
      if (!std::isfinite(distance)) continue;
    } else if (bound > 0) {
      worst = std::max(worst, distance / bound);
    }
    error += distance * distance;
    plain_error += off * off;
    size += expected.size[e] * expected.size[e];
    steps += half * half;
  }
  if (!first.str().empty()) fault(first.str());
  const double bound = 2 * std::sqrt(plain_error) + 4 * eps * std::sqrt(size) + std::sqrt(steps);
  if (std::sqrt(error) > bound) {
    std::ostringstream s;
    s << name << " as a whole is off " << std::sqrt(error) << ", bound " << bound << " (plain off "
      << std::sqrt(plain_error) << ", size " << std::sqrt(size) << ")";
    fault(s.str());
  }
  if (bound > 0) worst = std::max(worst, std::sqrt(error) / bound);
  note(name, worst);
}

void Judge::compare_hull(const Tensor& out, const Expectation& expected, const Format& format) {
  // A number below this may count as 0 where bfloat16 is multiplied as it is. Otherwise: the last
  // digit of each product.
  const double least =
      format.digits == bfloat16.digits
          ? 0x1p-126 / format.eps()
          : std::max(format.smallest_normal(), static_cast<double>(expected.most_keys) * 0x1p-126);
  double worst = 0;
  bool told = false;
  std::vector<double> row(static_cast<size_t>(out.columns()));
  const int64_t elements = out.elements();
  for (int64_t n = 0; n < elements; ++n) {
    const auto e = static_cast<size_t>(n);
    const double low = expected.lowest[e];
    const double high = expected.highest[e];
    if (e % row.size() == 0) out.read_row(out.index(n), row.data());
    if (std::isinf(low) || expected.out.size[e] == 0) continue;
    const double x = row[e % row.size()];
    // A single number may be off by twice the bound.
    const double slack = 2 * 4 * format.eps() * std::max({std::abs(low), std::abs(high), least});
    const double beyond = std::max(x - high, low - x);
    worst = std::max(worst, beyond / slack);
    if (beyond <= slack || told) continue;
    std::ostringstream s;
    s << place("out", out, n) << " is " << x << ", but what its row sees of v lies in " << low
      << " to " << high;
    fault(s.str());
    told = true;
  }
  note("out within v", worst);
}

void Judge::compare_normal(const char* name, const Tensor& tensor, const Expected& expected,
                           const Format& format) {
  double error = 0;
  double size = 0;
  for (int64_t n = 0; n < tensor.elements(); ++n) {
    const double exact = expected.exact[static_cast<size_t>(n)];
    error += std::pow(tensor.get(tensor.index(n)) - exact, 2);
    size += exact * exact;
  }
  const double limit = format.digits == 24 ? 1e-5 : format.digits == 11 ? 3e-3 : 2e-2;
  const double relative = size > 0 ? std::sqrt(error / size) : 0;
  const std::string what = std::string(name) + ", standard-normal";
  note(what.c_str(), relative / limit);
  if (relative < limit) return;
  std::ostringstream s;
  s << what << ": relative error " << relative << ", allowed " << limit;
  fault(s.str());
}

}  // namespace judge
