// Draws numbers: regimes in which attention's arithmetic goes wrong when it does.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "problem.hpp"

namespace judge {

namespace {

enum class Role { query, key, value, gradient };

enum Regime : int {
  normal,
  uniform,
  constant,
  alternating,
  cancelling,
  one_key,
  decades,
  huge_scores,
  subnormal,
  signed_zeros,
  zeros,
  offset,
  tiny,
  sparse,
  powers_of_two,
  largest,
  integers,
  equal_rows,
  outliers,
  heavy_tails,
  ascending,
  descending,
  positive,
  one_dimension,
  underflowing,
  regimes
};

constexpr std::array<const char*, regimes> names{
    "normal",    "uniform",    "constant",    "alternating",   "cancelling",
    "one key",   "50 decades", "huge scores", "subnormal",     "signed zeros",
    "zeros",     "offset",     "tiny",        "sparse",        "powers of two",
    "largest",   "integers",   "equal rows",  "outliers",      "heavy tails",
    "ascending", "descending", "positive",    "one dimension", "underflowing"};

constexpr double most_of_values = 1e15;  // of V and dO, by the contract

// One tensor's rows in one regime.
class Rows {
 public:
  Rows(Random& random, const Format& format, Role role, Regime regime,
       const std::vector<double>& direction, int64_t rows)
      : random_(random),
        format_(format),
        role_(role),
        regime_(regime),
        direction_(direction),
        rows_(rows),
        factor_(random.one_of({0.1, 1.0, 1.0, -3.0, 1.0 / 3})),
        favoured_(rows > 0 ? random.integer(0, rows - 1) : 0),
        decades_(random.real(3, 30)),
        least_decade_(std::max(-25.0, std::log10(format.smallest_normal()))),
        most_decade_(std::min(25.0, std::log10(format.largest()))),
        offset_(random.one_of({64.0, 1e4, 1.0})) {}

  void fill(int64_t row, std::vector<double>& x) {
    for (size_t d = 0; d < x.size(); ++d) x[d] = number(row, d, d == 0 ? 0 : x[d - 1]);
    const bool aligned = regime_ == one_key || regime_ == huge_scores || regime_ == ascending ||
                         regime_ == descending || regime_ == underflowing;
    if (aligned && (role_ == Role::query || role_ == Role::key)) align(row, x);
    if (regime_ == equal_rows) {
      if (first_.empty()) first_ = x;
      x = first_;
    }
    if (regime_ == one_dimension && !x.empty()) {
      const size_t kept = random_.bits() % x.size();
      for (size_t d = 0; d < x.size(); ++d) x[d] *= d == kept ? 10 : 0;
    }
  }

 private:
  double number(int64_t row, size_t d, double before) {
    const double x = random_.normal();
    switch (regime_) {
      case uniform:
        return random_.real(-1, 1);
      case constant:
        return factor_;
      case alternating:
        return ((row + static_cast<int64_t>(d)) & 1) != 0 ? factor_ : -factor_;
      case cancelling:
        return cancel(row, d, before, x);
      case decades:
        return random_.sign() * std::pow(10, random_.real(least_decade_, most_decade_));
      case subnormal:
        return random_.chance(0.2) ? x : random_.real(-2, 2) * format_.smallest_normal();
      case signed_zeros:
        return random_.chance(0.5) ? random_.sign() * 0.0 : x;
      case zeros:
        return 0;
      case offset:
        return role_ == Role::value ? offset_ + x : 1 + 0.1 * x;
      case tiny:
        return x * std::pow(10, -decades_);
      case sparse:
        return random_.chance(0.05) ? random_.sign() * 10 : 0;
      case powers_of_two:
        return random_.sign() * std::exp2(random_.integer(-8, 8));
      case largest:
        return random_.real(0.5, 1) * std::min(format_.largest(), most_of_values);
      case integers:
        return static_cast<double>(random_.integer(-3, 3));
      case outliers:
        return random_.chance(0.01) ? 300 * x : x;
      case heavy_tails:
        return std::clamp(x / random_.normal(), -1e4, 1e4);
      case positive:
        return std::abs(x);
      default:
        return x;
    }
  }

  // Sums of products whose terms cancel: q.k by dimensions, P V by rows.
  double cancel(int64_t row, size_t d, double before, double x) const {
    if (role_ == Role::value || role_ == Role::gradient) {
      return ((row & 1) != 0 ? 1 : -1) * 1e4 * direction_[d % direction_.size()] + x;
    }
    const bool second = (d & 1) != 0;
    if (role_ == Role::query) return second ? before : 30 * x;
    return second ? -before + 0.01 * x : 30 * x;
  }

  // Scores along one direction: what is large is the regime's.
  void align(int64_t row, std::vector<double>& x) {
    double along = 1;
    double noise = 0.1;
    const double place =
        static_cast<double>(row) / static_cast<double>(std::max<int64_t>(rows_, 1));
    const double root = std::sqrt(static_cast<double>(x.size()));
    if (regime_ == huge_scores) {
      along = role_ == Role::query ? 1e7 : 1e7 * random_.normal();
    } else if (role_ == Role::key) {
      if (regime_ == one_key) along = row == favoured_ ? 20 / root : 0;
      if (regime_ == ascending) along = 40 * place / root;
      if (regime_ == descending) along = -40 * place / root;
      if (regime_ == underflowing) {  // exp(-87) is float32's last normal number
        noise = 0;
        along = row == favoured_ ? 0 : -random_.real(80, 110) / root;
      }
    }
    for (size_t d = 0; d < x.size(); ++d) {
      x[d] = along * (direction_[d] < 0 ? -1 : 1) + noise * x[d];
    }
  }

  Random& random_;
  const Format& format_;
  Role role_;
  Regime regime_;
  const std::vector<double>& direction_;
  int64_t rows_;
  double factor_;
  int64_t favoured_;
  double decades_;
  double least_decade_;
  double most_decade_;
  double offset_;
  std::vector<double> first_;
};

void fill(Random& random, const Side& side, Tensor& tensor, Role role, Regime regime,
          const std::vector<double>& direction) {
  const int last = tensor.dims() - 1;
  const double most = role == Role::query || role == Role::key
                          ? tensor.format().largest()
                          : std::min(tensor.format().largest(), 0.99 * most_of_values);
  Rows rows(random, tensor.format(), role, regime, direction, side.rows);
  std::vector<double> x(static_cast<size_t>(tensor.columns()));
  for (int64_t row = 0; row < tensor.rows(); ++row) {
    const Tensor::Index i = tensor.index(row * tensor.columns());
    rows.fill(i[static_cast<size_t>(last - 2)], x);
    for (double& number : x) number = std::clamp(number, -most, most);
    tensor.write_row(i, x.data());
  }
}

double largest_of(const Tensor& tensor) {
  double most = 0;
  std::vector<double> x(static_cast<size_t>(tensor.columns()));
  for (int64_t row = 0; row < tensor.rows(); ++row) {
    tensor.read_row(tensor.index(row * tensor.columns()), x.data());
    for (const double number : x) most = std::max(most, std::abs(number));
  }
  return most;
}

// By the power of 2 that brings `product`, which the tensor is a factor of, under `limit`.
void shrink(Tensor& tensor, double product, double limit) {
  if (product <= limit) return;
  const double factor = std::exp2(std::floor(std::log2(limit / product)));
  const auto columns = static_cast<size_t>(tensor.columns());
  std::vector<double> all(static_cast<size_t>(tensor.elements()));  // rows may be one another
  for (size_t row = 0; row < all.size() / columns; ++row) {
    tensor.read_row(tensor.index(static_cast<int64_t>(row * columns)), all.data() + row * columns);
  }
  for (double& x : all) x *= factor;
  for (size_t row = 0; row < all.size() / columns; ++row) {
    tensor.write_row(tensor.index(static_cast<int64_t>(row * columns)), all.data() + row * columns);
  }
}

// The contract is of finite scores and gradients.
void hold_finite(Problem& problem) {
  constexpr double limit = 1e36;
  const double scale = std::max(1.0, std::abs(problem.scale()));
  const double q = largest_of(problem.q);
  const auto dim = static_cast<double>(problem.dim);
  shrink(problem.k, q * largest_of(problem.k) * dim * scale, limit);
  const double kept = 1 - problem.options.dropout_p;
  shrink(problem.v, largest_of(problem.v) / kept, problem.format->largest() / 2);  // so is out
  const double dp = largest_of(problem.v) * largest_of(problem.dout) *
                    static_cast<double>(problem.dim_v) / (kept * kept);
  const double sums = static_cast<double>(problem.rows.rows * problem.group + problem.keys.rows);
  shrink(problem.dout, dp * std::max(q, largest_of(problem.k)) * scale * sums, limit);
}

void poison_unused(const Side& side, int64_t heads, Tensor& tensor) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> nothing(static_cast<size_t>(tensor.columns()), nan);
  std::vector<bool> counts(static_cast<size_t>(side.rows));
  const auto poison = [&](int64_t b, int64_t row) {  // row of the tensor
    for (int64_t h = 0; h < heads; ++h) {
      tensor.write_row(side.packed ? Tensor::Index{row, h} : Tensor::Index{b, row, h},
                       nothing.data());
    }
  };
  for (size_t b = 0; b < side.sequences.size(); ++b) {
    const Sequence& s = side.sequences[b];
    for (int64_t i = 0; i < s.used; ++i) counts[static_cast<size_t>(s.first + i)] = true;
    if (side.packed) continue;
    for (int64_t i = s.used; i < s.extent; ++i) poison(static_cast<int64_t>(b), i);
  }
  if (!side.packed) return;
  for (int64_t t = 0; t < side.rows; ++t) {
    if (!counts[static_cast<size_t>(t)]) poison(0, t);
  }
}

void fill_dlse(Random& random, Problem& problem) {
  if (!problem.dlse.given()) return;
  const double factor = random.one_of({1.0, 0.0, 100.0, 1e-6});
  problem.dlse.poison();
  for (size_t b = 0; b < problem.rows.sequences.size(); ++b) {
    for (int64_t h = 0; h < problem.heads_q(); ++h) {
      for (int64_t i = 0; i < problem.rows.sequences[b].used; ++i) {
        problem.dlse.set(problem.rows.at_lse(static_cast<int64_t>(b), h, i),
                         factor * random.normal());
      }
    }
  }
}

bool has_keys(const Problem& problem, int64_t b, int64_t h, int64_t i) {
  const int64_t used_q = problem.rows.sequences[static_cast<size_t>(b)].used;
  const int64_t used_k = problem.keys.sequences[static_cast<size_t>(b)].used;
  for (int64_t j = 0; j < used_k; ++j) {
    if (!problem.seen(used_q, used_k, i, j)) continue;
    if (!problem.bias.given()) return true;
    const Tensor::Index at{problem.bias.extent(0) > 1 ? b : 0, problem.bias.extent(1) > 1 ? h : 0,
                           problem.bias.extent(2) > 1 ? i : 0, j};
    if (std::isfinite(problem.bias.get(at))) return true;
  }
  return false;
}

// A row without keys and without a finite sink has no gradient, whatever dout and dlse hold.
void poison_rows_without_keys(Problem& problem) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> nothing(static_cast<size_t>(problem.dim_v), nan);
  bool met = false;
  for (size_t s = 0; s < problem.rows.sequences.size(); ++s) {
    const auto b = static_cast<int64_t>(s);
    for (int64_t h = 0; h < problem.heads_q(); ++h) {
      if (problem.sinks.given() && std::isfinite(problem.sinks.get({h}))) continue;
      for (int64_t i = 0; i < problem.rows.sequences[s].used; ++i) {
        if (has_keys(problem, b, h, i)) continue;
        met = true;
        problem.dout.write_row(problem.rows.at(b, i, h, 0), nothing.data());
        if (problem.dlse.given()) problem.dlse.set(problem.rows.at_lse(b, h, i), nan);
      }
    }
  }
  if (met) problem.met.emplace_back("rows without keys, dout NaN");
}

}  // namespace

void fill_values(Random& random, Problem& problem) {
  std::vector<double> direction(static_cast<size_t>(std::max(problem.dim, problem.dim_v)));
  for (double& x : direction) x = random.normal();
  const bool alike = random.chance(0.5);
  const auto draw_regime = [&] { return static_cast<Regime>(random.integer(0, regimes - 1)); };
  const Regime shared = random.chance(0.2) ? normal : draw_regime();
  const auto regime = [&] { return alike ? shared : draw_regime(); };
  const auto fill_one = [&](Tensor& tensor, const Side& side, Role role, const char* name) {
    const Regime drawn = regime();
    fill(random, side, tensor, role, drawn, direction);
    problem.met.emplace_back(std::string(name) + ": " + names[drawn]);
  };
  fill_one(problem.q, problem.rows, Role::query, "q");
  fill_one(problem.k, problem.keys, Role::key, "k");
  fill_one(problem.v, problem.keys, Role::value, "v");
  fill_one(problem.dout, problem.rows, Role::gradient, "dout");
  problem.standard_normal = alike && shared == normal;
  hold_finite(problem);
  fill_dlse(random, problem);
  poison_unused(problem.rows, problem.heads_q(), problem.q);
  poison_unused(problem.rows, problem.heads_q(), problem.dout);
  poison_unused(problem.keys, problem.heads_k, problem.k);
  poison_unused(problem.keys, problem.heads_k, problem.v);
  if (random.chance(0.3) && !problem.dout.layout().repeated) poison_rows_without_keys(problem);
}

}  // namespace judge
