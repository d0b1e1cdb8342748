#include "reference/formulas.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "reference/number.hpp"
#include "reference/reference.hpp"

namespace fa::reference {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// Index along a dimension that may be broadcast.
int64_t broadcast(const Tensor& t, int32_t dimension, int64_t index) {
  return t.shape[dimension] == 1 ? 0 : index;
}

/// dropout's (seed, offset).
std::pair<uint64_t, uint64_t> dropout_state(const Options& options) {
  const Tensor& t = options.dropout_state;
  if (!t.given()) return {options.dropout_seed, options.dropout_offset};
  uint64_t words[2];
  std::memcpy(words, static_cast<const char*>(t.data) + t.byte_offset, sizeof(words));
  return {words[0], words[1]};
}

}  // namespace

double least_products(DType dtype, int64_t count) {
  const double least = smallest_normal(float32);
  return static_cast<double>(count) * (dtype == bfloat16 ? least / epsilon(dtype) : least);
}

template <typename Real>
Matrix<Real> absolute_input(Matrix<Real> a, DType dtype, DType judged_as) {
  const double least = dtype == bfloat16 ? smallest_normal(float32) / epsilon(judged_as) : 0;
  for (Real& x : a) x = std::fabs(x) + static_cast<Real>(least);
  return a;
}

template <typename Real>
KeyHead<Real> key_head(Matrix<Real> k, Matrix<Real> v) {
  KeyHead<Real> head{std::move(k), std::move(v), {}, {}};
  head.k_t = transposed(head.k);
  head.v_t = transposed(head.v);
  return head;
}

template <typename Real>
Formulas<Real>::Formulas(const BackwardArgs& args, const Options& options, const Shapes& shapes)
    : options_(options),
      dtype_(args.q.dtype),
      heads_q_(shapes.heads_q),
      scale_(static_cast<Real>(options.scale.value_or(1 / std::sqrt(shapes.dim)))),
      softcap_(static_cast<Real>(options.softcap)) {}

template <typename Real>
void Formulas<Real>::round(Matrix<Real>& tensor) const {
  if constexpr (std::is_same_v<Real, float>) {
    for (float& x : tensor) x = rounded(dtype_, x);
  }
}

template <typename Real>
bool Formulas<Real>::visible(const Where& where, int64_t i, int64_t j) const {
  const int64_t diagonal = i + where.keys - where.rows;
  if (options_.causal && j > diagonal) return false;
  if (options_.window_left >= 0 && diagonal - j > options_.window_left) return false;
  if (options_.window_right >= 0 && j - diagonal > options_.window_right) return false;
  return true;
}

template <typename Real>
double Formulas<Real>::added(const Where& where, int64_t i, int64_t j, bool sizes) const {
  double alibi = 0;
  if (const Tensor& slopes = options_.alibi_slopes; slopes.given()) {
    const double slope = slopes.ndim == 1 ? element(slopes, {where.head})
                                          : element(slopes, {where.batch, where.head});
    alibi = -slope * static_cast<double>(std::abs(i + where.keys - where.rows - j));
  }
  double bias = 0;
  if (const Tensor& t = options_.bias; t.given()) {
    bias = element(
        t, {broadcast(t, 0, where.batch), broadcast(t, 1, where.head), broadcast(t, 2, i), j});
  }
  if (sizes && bias != -infinity) return std::fabs(alibi) + std::fabs(bias);
  return alibi + bias;
}

template <typename Real>
Matrix<Real> Formulas<Real>::scores(Block<Real>& block, const KeyHead<Real>& keys) const {
  const Where& where = block.where;
  Matrix<Real> s = product(block.q, keys.k_t);
  for (Real& x : s) x *= scale_;
  round(s);
  if (softcap_ > 0) {
    block.capped = s;
    for (Real& x : block.capped) x = std::tanh(x / softcap_);
    s = block.capped;
    for (Real& x : s) x *= softcap_;
    round(s);
  }
  if (options_.alibi_slopes.given() || options_.bias.given()) {
    for (int64_t i = 0; i < s.rows(); ++i) {
      for (int64_t j = 0; j < s.cols(); ++j) {
        s[i][j] += static_cast<Real>(added(where, where.first + i, j, false));
      }
    }
    round(s);
  }
  for (int64_t i = 0; i < s.rows(); ++i) {
    for (int64_t j = 0; j < s.cols(); ++j) {
      if (!visible(where, where.first + i, j)) s[i][j] = static_cast<Real>(-infinity);
    }
  }
  return s;
}

template <typename Real>
Real Formulas<Real>::sink(int64_t head) const {
  return static_cast<Real>(options_.sinks.given() ? element(options_.sinks, {head}) : -infinity);
}

template <typename Real>
void Formulas<Real>::softmax(Block<Real>& block) const {
  Matrix<Real>& p = block.p;
  const Real sink = this->sink(block.where.head);
  block.lse.resize(p.rows());
  for (int64_t i = 0; i < p.rows(); ++i) {
    Real max = sink;
    for (int64_t j = 0; j < p.cols(); ++j) {
      if (p[i][j] > max || std::isnan(p[i][j])) max = p[i][j];
    }
    if (max == static_cast<Real>(-infinity)) {
      block.lse[i] = max;
      std::fill_n(p[i], p.cols(), Real{0});
      continue;
    }
    Real sum = std::exp(sink - max);
    for (int64_t j = 0; j < p.cols(); ++j) {
      p[i][j] = std::exp(p[i][j] - max);
      sum += p[i][j];
    }
    for (int64_t j = 0; j < p.cols(); ++j) p[i][j] /= sum;
    block.lse[i] = max + std::log(sum);
  }
  round(p);
}

template <typename Real>
Matrix<Real> Formulas<Real>::dropout(const Where& where, int64_t rows) const {
  const auto [seed, offset] = dropout_state(options_);
  const double p = options_.dropout_p;
  Matrix<Real> z(rows, where.keys);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < where.keys; ++j) {
      const bool keep =
          keeps(p, seed, offset, where.batch, where.head, heads_q_, where.first + i, j);
      z[i][j] = static_cast<Real>(keep ? 1 / (1 - p) : 0);
    }
  }
  return z;
}

template <typename Real>
void Formulas<Real>::forward(Block<Real>& block, const KeyHead<Real>& keys) const {
  block.p = scores(block, keys);
  softmax(block);
  block.pz = block.p;
  if (options_.dropout_p > 0) {
    block.z = dropout(block.where, block.q.rows());
    block.pz = times(block.p, block.z);
    round(block.pz);
  }
  block.out = product(block.pz, keys.v);
  round(block.out);
}

template <typename Real>
RowGradients<Real> Formulas<Real>::backward(const Block<Real>& block, const KeyHead<Real>& keys,
                                            KeyGradients<Real>& sums) const {
  RowGradients<Real> g;
  g.delta.resize(block.q.rows());
  for (int64_t i = 0; i < block.q.rows(); ++i) {
    for (int64_t d = 0; d < block.out.cols(); ++d) g.delta[i] += block.dout[i][d] * block.out[i][d];
    g.delta[i] += minus_ * block.dlse[i];
  }
  Matrix<Real> dp = product(block.dout, keys.v_t);
  const auto count_least = [&](Matrix<Real>& sums, int64_t products) {
    if (least_ == 0) return;
    for (Real& x : sums) x += static_cast<Real>(least_products(dtype_, products));
  };
  count_least(dp, block.dout.cols());
  round(dp);
  if (!block.z.empty()) {
    dp = times(dp, block.z);
    round(dp);
  }
  g.ds = block.p;
  for (int64_t i = 0; i < dp.rows(); ++i) {
    for (int64_t j = 0; j < dp.cols(); ++j) g.ds[i][j] *= dp[i][j] + minus_ * g.delta[i];
  }
  round(g.ds);
  Matrix<Real> ds = g.ds;  // back through softcap and scale
  if (!block.capped.empty()) {
    for (Real* t = ds.begin(); const Real c : block.capped) *t++ *= 1 + minus_ * c * c;
    round(ds);
  }
  // A number that is multiplied: CPUs that multiply bfloat16 take subnormal ones as 0 before the
  // scale comes; elsewhere it may become one by a scale up to 1.
  if (dtype_ == bfloat16) count_least(ds, 1);
  for (Real& x : ds) x *= scale_;
  if (dtype_ != bfloat16) count_least(ds, 1);
  g.dq = product(ds, keys.k);
  round(g.dq);
  add_product(sums.dk, transposed(ds), block.q);
  add_product(sums.dv, transposed(block.pz), block.dout);
  if (least_ != 0) {
    // A scale above 1, and in bfloat16 any, comes at the end of dQ and dK.
    const Real scaled = std::max<Real>(1, scale_);
    const auto least = [&](int64_t products) {
      return least_ + static_cast<Real>(least_products(dtype_, products));
    };
    for (Real& x : g.dq) x += scaled * least(ds.cols());
    for (Real& x : sums.dk) x += scaled * least(ds.rows());
    for (Real& x : sums.dv) x += least(ds.rows());
    // dbias sums these up in float32 whatever its own dtype
    for (Real& x : g.ds) x += static_cast<Real>(smallest_normal(float32) / epsilon(dtype_));
  }
  return g;
}

template <typename Real>
Real Formulas<Real>::sink_gradient(const Block<Real>& block, const std::vector<Real>& delta) const {
  const Real sink = this->sink(block.where.head);
  // A sink's probability may count as 0 where it is subnormal, as that of a key.
  const Real least =
      least_ == 0 ? 0 : static_cast<Real>(smallest_normal(float32) / epsilon(dtype_));
  Real sum = 0;
  for (size_t i = 0; i < delta.size(); ++i) {
    if (block.lse[i] != static_cast<Real>(-infinity)) {
      sum += minus_ * (std::exp(sink - block.lse[i]) + least) * delta[i];
    }
  }
  return sum;
}

template <typename Real>
Formulas<Real> Formulas<Real>::of_sizes() const {
  Formulas sizes = *this;
  sizes.scale_ = std::fabs(scale_);
  sizes.minus_ = 1;
  sizes.least_ = static_cast<Real>(
      std::max(smallest_normal(dtype_), smallest_normal(float32) / epsilon(dtype_)));
  return sizes;
}

template <typename Real>
std::vector<Real> Formulas<Real>::score_sizes(const Block<Real>& block,
                                              const KeyHead<Real>& keys) const {
  const Where& where = block.where;
  const Matrix<Real> s =
      product(absolute_input(block.q, dtype_, float32), absolute_input(keys.k_t, dtype_, float32));
  std::vector<Real> largest(s.rows());
  for (int64_t i = 0; i < s.rows(); ++i) {
    for (int64_t j = 0; j < s.cols(); ++j) {
      if (!visible(where, where.first + i, j)) continue;
      const auto size =
          std::fabs(scale_) * s[i][j] + static_cast<Real>(added(where, where.first + i, j, true));
      largest[i] = std::max(largest[i], size);
    }
  }
  return largest;
}

template KeyHead<float> key_head(Matrix<float>, Matrix<float>);
template KeyHead<double> key_head(Matrix<double>, Matrix<double>);
template Matrix<float> absolute_input(Matrix<float>, DType, DType);
template Matrix<double> absolute_input(Matrix<double>, DType, DType);
template class Formulas<float>;
template class Formulas<double>;

}  // namespace fa::reference
