#include "formula.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "dropout.hpp"
#include "matrix.hpp"

namespace judge {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double float_eps = 0x1p-23;

class Formula {
 public:
  explicit Formula(const Problem& problem)
      : p_(problem),
        format_(*problem.format),
        eps_(format_.eps()),
        pairs_(format_.digits == bfloat16.digits),
        underflow_(least_normal / eps_),
        least_product_(pairs_ ? underflow_ : least_normal),
        scale_(problem.scale()),
        cap_(problem.options.softcap),
        keep_(1 / (1 - problem.options.dropout_p)),
        threshold_(static_cast<uint64_t>(std::floor(problem.options.dropout_p * 0x1p32))) {
    e_.out.reset(p_.out);
    e_.lse.reset(p_.lse, -infinity);
    e_.dq.reset(p_.dq);
    e_.dk.reset(p_.dk);
    e_.dv.reset(p_.dv);
    e_.dbias.reset(p_.dbias);
    e_.dsinks.reset(p_.dsinks);
    e_.lowest.assign(e_.out.exact.size(), 0);
    e_.highest.assign(e_.out.exact.size(), 0);
    e_.fewest_keys = std::numeric_limits<int64_t>::max();
  }

  Expectation run() {
    for (b_ = 0; b_ < p_.batch; ++b_) {
      rows_ = p_.rows.sequences[static_cast<size_t>(b_)].used;
      keys_ = p_.keys.sequences[static_cast<size_t>(b_)].used;
      for (int64_t hk = 0; hk < p_.heads_k; ++hk) {
        k_ = Matrix::of(p_.k, p_.keys, b_, keys_, hk, p_.dim, lost());
        v_ = Matrix::of(p_.v, p_.keys, b_, keys_, hk, p_.dim_v, lost());
        kt_ = k_.transposed(keys_, p_.dim, lost_in_score());
        vt_ = v_.transposed(keys_, p_.dim_v, lost());
        dk_ = Matrix(keys_ * p_.dim);
        dv_ = Matrix(keys_ * p_.dim_v);
        seen_by_.assign(static_cast<size_t>(keys_), 0);
        for (int64_t g = 0; g < p_.group; ++g) {
          h_ = hk * p_.group + g;
          q_ = Matrix::of(p_.q, p_.rows, b_, rows_, h_, p_.dim, lost());
          forward();
          backward();
        }
        for (int64_t j = 0; j < keys_; ++j) {
          const int64_t terms = seen_by_[static_cast<size_t>(j)];
          write(e_.dk, p_.dk, p_.keys.at(b_, j, hk, 0), dk_, j, p_.dim, scale_, terms);
          write(e_.dv, p_.dv, p_.keys.at(b_, j, hk, 0), dv_, j, p_.dim_v, 1, terms);
        }
      }
    }
    for (Expected* sums : {&e_.dbias, &e_.dsinks}) {
      for (double& x : sums->plain) x = round(static_cast<float>(x));
    }
    return std::move(e_);
  }

 private:
  [[nodiscard]] float round(float x) const {
    return format_.digits == 24 ? x : static_cast<float>(round_fraction(format_, x));
  }

  [[nodiscard]] Tensor::Index in_bias(const Tensor& tensor, int64_t i, int64_t j) const {
    return {tensor.extent(0) > 1 ? b_ : 0, tensor.extent(1) > 1 ? h_ : 0,
            tensor.extent(2) > 1 ? i : 0, j};
  }

  // The sizes that a subnormal input has besides what it is, where it counts as 0.
  [[nodiscard]] double lost() const { return pairs_ ? underflow_ : 0; }
  [[nodiscard]] double lost_in_score() const { return pairs_ ? least_normal / float_eps : 0; }

  // One row of a gradient of q, k or v, a sum of so many terms.
  void write(Expected& to, const Tensor& tensor, const Tensor::Index& at, const Matrix& from,
             int64_t row, int64_t dim, double factor, int64_t terms) const {
    // A factor above 1 is multiplied in at the end.
    const double late = std::max(1.0, std::abs(factor));
    const double least = terms > 0 ? std::max(format_.smallest_normal(), underflow_) * late : 0;
    const double products = static_cast<double>(terms) * least_product_ * late;
    const int64_t first = tensor.number(at);
    for (int64_t d = 0; d < dim; ++d) {
      const auto n = static_cast<size_t>(first + d);
      const auto m = static_cast<size_t>(row * dim + d);
      to.exact[n] = factor * from.exact[m];
      to.size[n] = std::max(std::abs(factor) * from.size[m] + products, least);
      to.plain[n] = factor == 1 ? round(from.plain[m])
                                : round(static_cast<float>(factor) * round(from.plain[m]));
    }
  }

  void scores() {
    const int64_t n = rows_ * keys_;
    s_ = Matrix(n);  // `size`: the sum of absolute products, bias and so on
    const Matrix q =
        pairs_ ? Matrix::of(p_.q, p_.rows, b_, rows_, h_, p_.dim, lost_in_score()) : q_;
    s_.add_product(q, kt_, rows_, p_.dim, keys_);
    tanh_ = Matrix(cap_ > 0 ? n : 0);  // `size`: how far off s / cap may be
    double slope = 0;
    if (p_.alibi.given()) {
      slope = p_.alibi.get(p_.alibi.dims() == 1 ? Tensor::Index{h_} : Tensor::Index{b_, h_});
    }
    const auto scale = static_cast<float>(scale_);
    const auto cap = static_cast<float>(cap_);
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t j = 0; j < keys_; ++j) {
        const auto x = static_cast<size_t>(i * keys_ + j);
        double exact = scale_ * s_.exact[x];
        double size = std::abs(scale_) * s_.size[x];
        float plain = round(scale * round(s_.plain[x]));
        if (cap_ > 0) {
          tanh_.exact[x] = std::tanh(exact / cap_);
          tanh_.plain[x] = round(std::tanh(round(plain / cap)));
          tanh_.size[x] = float_eps * size / cap_;
          exact = cap_ * tanh_.exact[x];
          plain = round(cap * tanh_.plain[x]);
        }
        if (slope != 0) {
          const auto far = static_cast<double>(std::abs(i + keys_ - rows_ - j));
          exact -= slope * far;
          size += std::abs(slope) * far;
          plain = round(plain - round(static_cast<float>(slope) * static_cast<float>(far)));
        }
        if (p_.bias.given()) {
          const double bias = p_.bias.get(in_bias(p_.bias, i, j));
          exact += bias;
          if (std::isfinite(bias)) size += std::abs(bias);
          plain = round(plain + static_cast<float>(bias));
        }
        const bool seen = p_.seen(rows_, keys_, i, j);
        s_.exact[x] = seen ? exact : -infinity;
        s_.plain[x] = seen ? plain : -std::numeric_limits<float>::infinity();
        s_.size[x] = size;
      }
    }
  }

  // The size of a weight: what float32 can know of it. `off`: how far off its score may be.
  [[nodiscard]] double size_of_weight(double weight, double log_weight, double off) const {
    double size = weight * (1 + off / eps_);
    // Where that is more than a small part, a first order no longer says how large it may be.
    if (off > 0.125) size = std::max(size, std::exp(std::min(0.0, log_weight + 2 * off)) / eps_);
    return std::max(size, underflow_);
  }

  // s_ becomes P; false when the row has neither keys nor a sink.
  bool softmax(int64_t i) {
    const auto first = static_cast<size_t>(i * keys_);
    const auto last = first + static_cast<size_t>(keys_);
    double top = sink_;
    float plain_top = static_cast<float>(sink_);
    int64_t count = 0;
    for (size_t x = first; x < last; ++x) {
      top = std::max(top, s_.exact[x]);
      plain_top = std::max(plain_top, s_.plain[x]);
      count += s_.exact[x] > -infinity ? 1 : 0;
    }
    e_.fewest_keys = std::min(e_.fewest_keys, count);
    sees_[static_cast<size_t>(i)] = count;
    e_.most_keys = std::max(e_.most_keys, count);
    if (top == -infinity) {
      for (size_t x = first; x < last; ++x) {
        s_.exact[x] = s_.size[x] = s_.plain[x] = size_backward_[x] = 0;
      }
      return false;
    }
    double sum = std::exp(sink_ - top);
    float plain_sum = round(std::exp(round(static_cast<float>(sink_) - plain_top)));
    for (size_t x = first; x < last; ++x) {
      sum += std::exp(s_.exact[x] - top);
      plain_sum += round(std::exp(round(s_.plain[x] - plain_top)));
    }
    const double lse = top + std::log(sum);
    plain_lse_ = plain_top + std::log(plain_sum);
    plain_sum = round(plain_sum);
    // The largest sum among the keys that may weigh anything in float32.
    largest_ = 0;
    for (size_t x = first; x < last; ++x) {
      if (s_.exact[x] + float_eps * s_.size[x] - lse > -17)
        largest_ = std::max(largest_, s_.size[x]);
    }
    bool undecided = false;
    for (size_t x = first; x < last; ++x) {
      const double log_weight = s_.exact[x] - lse;
      const double off = float_eps * std::max(s_.size[x], largest_);
      const bool seen = log_weight > -infinity;
      s_.plain[x] = round(round(std::exp(round(s_.plain[x] - plain_top))) / plain_sum);
      s_.exact[x] = std::exp(s_.exact[x] - top) / sum;
      s_.size[x] = seen ? size_of_weight(s_.exact[x], log_weight, off) : 0;
      // The backward pass has exp(s - LSE), of the LSE that was stored.
      const double off_backward = off + float_eps * std::abs(lse);
      size_backward_[x] = seen ? size_of_weight(s_.exact[x], log_weight, off_backward) : 0;
      undecided |= seen && off > 0.125 && log_weight > -17;
      if (seen) ++seen_by_[x - first];
    }
    e_.undecided += undecided ? 1 : 0;
    lse_ = lse;
    return true;
  }

  void dropout() {
    dropped_ = s_;
    if (p_.options.dropout_p == 0) return;
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t j = 0; j < keys_; ++j) {
        const auto x = static_cast<size_t>(i * keys_ + j);
        const uint64_t head = static_cast<uint64_t>(b_) * static_cast<uint64_t>(p_.heads_q()) +
                              static_cast<uint64_t>(h_);
        const bool kept =
            dropout_word(p_.dropout_seed, p_.dropout_offset, head, static_cast<uint64_t>(i),
                         static_cast<uint64_t>(j)) >= threshold_;
        dropped_.exact[x] = kept ? s_.exact[x] * keep_ : 0;
        dropped_.size[x] = kept ? s_.size[x] * keep_ : 0;
        dropped_.plain[x] = kept ? round(s_.plain[x] * static_cast<float>(keep_)) : 0;
        kept_[x] = kept ? keep_ : 0;
      }
    }
  }

  void forward() {
    scores();
    sink_ = p_.sinks.given() ? p_.sinks.get({h_}) : -infinity;
    sees_.assign(static_cast<size_t>(rows_), 0);
    size_backward_.assign(static_cast<size_t>(rows_ * keys_), 0);
    sink_weight_.assign(static_cast<size_t>(rows_), 0);
    sink_size_.assign(static_cast<size_t>(rows_), 0);
    plain_sink_.assign(static_cast<size_t>(rows_), 0);
    for (int64_t i = 0; i < rows_; ++i) {
      const auto row = static_cast<size_t>(i);
      if (!softmax(i)) continue;
      const auto n = static_cast<size_t>(p_.lse.number(p_.rows.at_lse(b_, h_, i)));
      e_.lse.exact[n] = lse_;
      e_.lse.plain[n] = plain_lse_;
      e_.lse.size[n] = std::abs(lse_) + largest_ + 1 + exp_error() / (4 * float_eps);
      if (sink_ == -infinity) continue;
      sink_weight_[row] = std::exp(sink_ - lse_);
      sink_size_[row] =
          size_of_weight(sink_weight_[row], sink_ - lse_, float_eps * (largest_ + std::abs(lse_)));
      plain_sink_[row] = round(std::exp(round(static_cast<float>(sink_) - round(plain_lse_))));
    }
    kept_.assign(static_cast<size_t>(rows_ * keys_), 1);
    dropout();
    o_ = Matrix(rows_ * p_.dim_v);
    o_.add_product(dropped_, v_, rows_, keys_, p_.dim_v);
    for (int64_t i = 0; i < rows_; ++i) {
      const auto first = static_cast<size_t>(p_.out.number(p_.rows.at(b_, i, h_, 0)));
      const int64_t terms = sees_[static_cast<size_t>(i)];
      for (int64_t d = 0; d < p_.dim_v; ++d) {
        const auto m = static_cast<size_t>(i * p_.dim_v + d);
        o_.plain[m] = round(o_.plain[m]);
        if (terms > 0) {
          o_.size[m] = std::max(o_.size[m] + static_cast<double>(terms) * least_product_,
                                format_.smallest_normal());
        }
        e_.out.exact[first + static_cast<size_t>(d)] = o_.exact[m];
        e_.out.plain[first + static_cast<size_t>(d)] = o_.plain[m];
        e_.out.size[first + static_cast<size_t>(d)] = o_.size[m];
      }
      hull(i, first);
    }
  }

  // The error of exp where the forward pass multiplies pairs of bfloat16: what the page's 1 lacks.
  [[nodiscard]] double exp_error() const { return pairs_ ? 3e-6 : 0; }

  // Without dropout a row of out is a mean of the rows of V that it sees (and, with a sink, of 0).
  void hull(int64_t i, size_t first) {
    double* low = e_.lowest.data() + first;
    double* high = e_.highest.data() + first;
    const bool none = p_.options.dropout_p > 0;
    const bool zero = sink_ > -infinity || sees_[static_cast<size_t>(i)] == 0;
    std::fill_n(low, p_.dim_v, none ? -infinity : zero ? 0 : infinity);
    std::fill_n(high, p_.dim_v, none ? infinity : zero ? 0 : -infinity);
    if (none) return;
    for (int64_t j = 0; j < keys_; ++j) {
      if (s_.size[static_cast<size_t>(i * keys_ + j)] == 0) continue;
      const double* v = v_.exact.data() + j * p_.dim_v;
      for (int64_t d = 0; d < p_.dim_v; ++d) {
        low[d] = std::min(low[d], v[d]);
        high[d] = std::max(high[d], v[d]);
      }
    }
  }

  struct Delta {
    double exact = 0;
    double size = 0;
    float plain = 0;
  };

  [[nodiscard]] Delta delta(const Matrix& dout, int64_t i) const {
    Delta sum;
    for (int64_t d = 0; d < p_.dim_v; ++d) {
      const auto m = static_cast<size_t>(i * p_.dim_v + d);
      sum.exact += dout.exact[m] * o_.exact[m];
      sum.size += dout.size[m] * o_.size[m];
      sum.plain += dout.plain[m] * o_.plain[m];
    }
    sum.plain = round(sum.plain);
    if (p_.dlse.given()) {
      const double dlse = p_.dlse.get(p_.rows.at_lse(b_, h_, i));
      sum.exact -= dlse;
      sum.size += std::abs(dlse);
      sum.plain = round(sum.plain - static_cast<float>(dlse));
    }
    return sum;
  }

  void backward() {
    const Matrix dout = Matrix::of(p_.dout, p_.rows, b_, rows_, h_, p_.dim_v, lost());
    s_.size = size_backward_;
    for (size_t x = 0; x < kept_.size(); ++x) dropped_.size[x] = kept_[x] * s_.size[x];
    dv_.add_transposed_product(dropped_, dout, rows_, keys_, p_.dim_v);
    Matrix ds(rows_ * keys_);
    ds.add_product(dout, vt_, rows_, p_.dim_v, keys_);
    for (int64_t i = 0; i < rows_; ++i) {
      const Delta mean = delta(dout, i);
      if (p_.dsinks.given() && sink_ > -infinity) {
        const auto row = static_cast<size_t>(i);
        const auto n = static_cast<size_t>(h_);
        e_.dsinks.exact[n] -= sink_weight_[row] * mean.exact;
        e_.dsinks.size[n] += sink_size_[row] * mean.size;
        e_.dsinks.plain[n] -= plain_sink_[row] * mean.plain;
      }
      for (int64_t j = 0; j < keys_; ++j) step(ds, i, j, mean);
    }
    Matrix dq(rows_ * p_.dim);
    dq.add_product(ds, k_, rows_, keys_, p_.dim);
    dk_.add_transposed_product(ds, q_, rows_, keys_, p_.dim);
    for (int64_t i = 0; i < rows_; ++i) {
      write(e_.dq, p_.dq, p_.rows.at(b_, i, h_, 0), dq, i, p_.dim, scale_,
            sees_[static_cast<size_t>(i)]);
    }
  }

  // dP of one row and key becomes the gradient of the score before softcap.
  void step(Matrix& ds, int64_t i, int64_t j, const Delta& mean) {
    const auto x = static_cast<size_t>(i * keys_ + j);
    if (s_.size[x] == 0) {  // not seen
      ds.exact[x] = ds.size[x] = ds.plain[x] = 0;
      return;
    }
    const double dp_size = ds.size[x] + static_cast<double>(p_.dim_v) * least_product_;
    double exact = s_.exact[x] * (kept_[x] * ds.exact[x] - mean.exact);
    double size = s_.size[x] * (kept_[x] * dp_size + mean.size);
    float plain = round(
        s_.plain[x] * round(round(static_cast<float>(kept_[x]) * round(ds.plain[x])) - mean.plain));
    if (p_.dbias.given()) {
      const auto n = static_cast<size_t>(p_.dbias.number(in_bias(p_.dbias, i, j)));
      e_.dbias.exact[n] += exact;
      e_.dbias.size[n] += std::max(size, underflow_);
      e_.dbias.plain[n] += plain;
    }
    if (cap_ > 0) {
      const double t = tanh_.exact[x];
      exact *= 1 - t * t;
      // 1 - tanh^2 is a difference, and changes as its argument is off.
      size *= 1 + t * t + std::min(1.0, 2 * tanh_.size[x]) / eps_;
      plain = round(plain * round(1 - round(tanh_.plain[x] * tanh_.plain[x])));
    }
    if (pairs_) size += underflow_;
    // A scale up to 1 is multiplied into dS, which may leave nothing of it.
    if (scale_ != 0 && std::abs(scale_) <= 1) size += least_normal / std::abs(scale_);
    ds.exact[x] = exact;
    ds.size[x] = size;
    ds.plain[x] = plain;
  }

  const Problem& p_;
  const Format& format_;
  const double eps_;
  const bool pairs_;            // bfloat16, which CPUs may multiply as it is
  const double underflow_;      // below which exp gives 0, in units of eps
  const double least_product_;  // what each product of a sum counts
  const double scale_;
  const double cap_;
  const double keep_;
  const uint64_t threshold_;
  Expectation e_;

  int64_t b_ = 0, h_ = 0, rows_ = 0, keys_ = 0;
  Matrix q_, k_, v_, kt_, vt_, dk_, dv_;
  std::vector<int64_t> seen_by_;       // of each key: how many rows of its heads see it
  std::vector<int64_t> sees_;          // of each row: how many keys
  std::vector<double> size_backward_;  // of P in the backward pass
  Matrix s_;                           // scores, then P
  Matrix tanh_, dropped_, o_;
  std::vector<double> kept_;  // Z
  std::vector<double> sink_weight_, sink_size_;
  std::vector<float> plain_sink_;
  double sink_ = 0, lse_ = 0, largest_ = 0;
  float plain_lse_ = 0;
};

}  // namespace

Expectation expect(const Problem& problem) { return Formula(problem).run(); }

}  // namespace judge
