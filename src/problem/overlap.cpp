// Two elements share a byte iff a sum of multiples of the strides hits a small range:
//   lo <= sum of x_i * c_i <= hi,  0 <= x_i <= n_i.
// In general that is as hard as a knapsack. For tensors it is easy. Strides up to the range's
// length only widen the range, as do the dimensions of a dense tensor. Of each nested stride only a
// few multiples come into question. Euclid's algorithm decides the last two strides.
#include "problem/overlap.hpp"

#include <algorithm>
#include <numeric>
#include <optional>

namespace fa {

namespace {

using Dim = Footprint::Dim;
__extension__ using Wide = __int128;

// Steps of the search; each takes well under a microsecond.
constexpr int most_steps = 1 << 13;

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0); }
int64_t mod(Wide a, int64_t m) {
  const auto rest = static_cast<int64_t>(a % m);
  return rest < 0 ? rest + m : rest;
}

/// The least t >= 0 with low <= t * a mod m <= high; 0 <= a < m, 0 <= low <= high < m.
std::optional<int64_t> first_in_range(int64_t a, int64_t m, int64_t low, int64_t high) {
  if (low == 0) return 0;
  if (a == 0) return std::nullopt;
  const int64_t t = ceil_div(low, a);
  if (Wide{t} * a <= high) return t;
  // No multiple of a lies in the range, so t * a wraps y times: y * m mod a decides.
  const auto y = first_in_range(m % a, a, mod(-Wide{high}, a), mod(-Wide{low}, a));
  if (!y) return std::nullopt;
  return static_cast<int64_t>((Wide{*y} * m + low + a - 1) / a);
}

class Sums {
 public:
  void add(int64_t step, int64_t last) {
    if (last > 0) dims_[count_++] = {step, last};
  }

  /// Whether a sum lies in [low, high].
  Sharing hit(int64_t low, int64_t high) {
    std::sort(dims_.begin(), dims_.begin() + count_, [](Dim a, Dim b) { return a.step < b.step; });
    size_t kept = 0;
    for (size_t d = 0; d < count_; ++d) {
      const auto [step, last] = dims_[d];
      if (step <= high - low + 1) {  // its multiples leave no gap in the range
        low -= step * last;
      } else if (kept > 0 && dims_[kept - 1].step == step) {
        dims_[kept - 1].last += last;
      } else {
        dims_[kept++] = dims_[d];
      }
    }
    count_ = kept;
    for (size_t d = 0; d < count_; ++d) {
      reach_[d + 1] = reach_[d] + dims_[d].step * dims_[d].last;
      divisor_[d + 1] = std::gcd(divisor_[d], dims_[d].step);
    }
    return smallest(count_, low, high);
  }

 private:
  /// Whether a sum of multiples of the `count` smallest strides lies in [low, high].
  Sharing smallest(size_t count, int64_t low, int64_t high) {
    if (high < 0 || low > reach_[count]) return Sharing::none;
    if (low <= 0 || high >= reach_[count]) return Sharing::some;
    if (high - mod(high, divisor_[count]) < low) return Sharing::none;
    if (count == 1) return Sharing::some;  // a multiple of the one stride, within its reach
    if (count == 2) return two(low, high) ? Sharing::some : Sharing::none;
    const auto [step, last] = dims_[count - 1];
    const int64_t from = std::max<int64_t>(ceil_div(low - reach_[count - 1], step), 0);
    const int64_t to = std::min(floor_div(high, step), last);
    for (int64_t x = from; x <= to; ++x) {
      if (++steps_ > most_steps) return Sharing::undecided;
      const Sharing found = smallest(count - 1, low - x * step, high - x * step);
      if (found != Sharing::none) return found;
    }
    return Sharing::none;
  }

  /// For every multiple of the larger stride that leaves the range within the smaller one's reach,
  /// some multiple of the smaller one has to lie in what is left of the range, which is shorter.
  bool two(int64_t low, int64_t high) const {
    const auto [m, last_m] = dims_[0];
    const auto [step, last] = dims_[1];
    const int64_t from = std::max<int64_t>(ceil_div(low - m * last_m, step), 0);
    const int64_t to = std::min(floor_div(high, step), last);
    if (from > to) return false;
    const int64_t rest = mod(high - from * step, m);
    // mutant "shared memory: the last two strides" of overlap_test: rest <= high - low => false
    if (rest <= high - low) return true;
    const auto t = first_in_range(mod(-step, m), m, m - rest, m - rest + (high - low));
    return t && *t <= to - from;
  }

  std::array<Dim, 2 * View::max_dims> dims_;
  std::array<int64_t, 2 * View::max_dims + 1> reach_{};
  std::array<int64_t, 2 * View::max_dims + 1> divisor_{};
  size_t count_ = 0;
  int steps_ = 0;
};

/// Each step reaches over all that lies within it, as in any permuted or sliced dense tensor.
bool nested(Footprint a) {
  std::sort(a.dims.begin(), a.dims.begin() + a.count, [](Dim x, Dim y) { return x.step < y.step; });
  int64_t inside = a.run;
  for (size_t d = 0; d < a.count; ++d) {
    if (a.dims[d].step < inside) return false;
    inside += a.dims[d].step * a.dims[d].last;
  }
  return true;
}

}  // namespace

Sharing sharing(const Footprint& a, const Footprint& b) {
  if (!may_share(a, b)) return Sharing::none;
  Sums sums;  // steps of a, and of b from its end down
  for (size_t d = 0; d < a.count; ++d) sums.add(a.dims[d].step, a.dims[d].last);
  for (size_t d = 0; d < b.count; ++d) sums.add(b.dims[d].step, b.dims[d].last);
  const auto high = static_cast<int64_t>(b.end - a.begin) - 1;
  return sums.hit(high - (a.run - 1) - (b.run - 1), high);
}

Sharing sharing_within(const Footprint& a) {
  if (nested(a)) return Sharing::none;
  // Two elements differ first in dimension d, by 1 or more, and then in any way.
  for (size_t d = 0; d < a.count; ++d) {
    Sums sums;
    int64_t middle = -a.dims[d].step;
    sums.add(a.dims[d].step, a.dims[d].last - 1);
    for (size_t e = d + 1; e < a.count; ++e) {
      sums.add(a.dims[e].step, 2 * a.dims[e].last);
      middle += a.dims[e].step * a.dims[e].last;
    }
    const Sharing found = sums.hit(middle - (a.run - 1), middle + (a.run - 1));
    if (found != Sharing::none) return found;
  }
  return Sharing::none;
}

}  // namespace fa
