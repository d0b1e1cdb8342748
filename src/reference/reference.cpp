#include "reference/reference.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <type_traits>
#include <utility>

#include "reference/formulas.hpp"
#include "reference/number.hpp"

namespace fa::reference {
namespace {

constexpr int64_t block_rows = 64;  // keeps a block's scores in the cache

int64_t numel(const Tensor& t) {
  int64_t n = 1;
  for (int32_t d = 0; d < t.ndim; ++d) n *= t.shape[d];
  return n;
}

template <typename Real>
KeyHead<Real> absolute(const KeyHead<Real>& keys) {
  return {absolute(keys.k), absolute(keys.v), absolute(keys.k_t), absolute(keys.v_t)};
}

/// A block whose backward pass gives the sums over absolute values. In units of the dtype's epsilon
/// they hold as well that a probability is exp of a float32 sum, which a rounding of that sum
/// changes by its size times 2^-23, and that P and O may lose what is below a normal number.
template <typename Real>
Block<Real> absolute(const Block<Real>& block, const KeyHead<Real>& keys_abs,
                     const std::vector<Real>& score_sizes, DType dtype) {
  Block<Real> b = block;
  b.q = absolute(block.q);
  b.dout = absolute(block.dout);
  for (Real& x : b.dlse) x = std::fabs(x);
  const Real least = smallest_normal(float32) / epsilon(dtype);
  for (int64_t i = 0; i < b.p.rows(); ++i) {
    const Real weight = 1 + score_sizes[i] * epsilon(float32) / epsilon(dtype);
    for (int64_t j = 0; j < b.p.cols(); ++j) b.p[i][j] = b.p[i][j] * weight + least;
    b.lse[i] -= std::log(weight);  // for the sink's probability
  }
  b.pz = b.z.empty() ? b.p : times(b.p, b.z);
  b.out = product(b.pz, keys_abs.v);
  for (Real& x : b.out) x += smallest_normal(dtype);
  return b;
}

/// LSE = max + log(sum): the sizes of the scores, of LSE itself, and of a relative error of the
/// sum.
template <typename Real>
std::vector<Real> lse_sizes(const std::vector<Real>& lse, std::vector<Real> score_sizes) {
  for (size_t i = 0; i < lse.size(); ++i) {
    score_sizes[i] = std::isfinite(lse[i]) ? score_sizes[i] + std::fabs(lse[i]) + 1 : 0;
  }
  return score_sizes;
}

/// One call: its sequences and heads, walked through in blocks of rows.
template <typename Real>
class Call {
 public:
  Call(const BackwardArgs& args, const Options& options)
      : args_(args), options_(options), shapes_(args, options), formulas_(args, options, shapes_) {}

  Result all() const;
  Block<Real> row(int64_t batch, int64_t head, int64_t i) const;
  std::vector<Real> dq_row(int64_t batch, int64_t head, int64_t i) const;
  KeyGradients<Real> key_rows(int64_t batch, int64_t head_k,
                              const std::vector<int64_t>& which) const;

  const Shapes& shapes() const { return shapes_; }

 private:
  static constexpr bool exact = std::is_same_v<Real, double>;

  Result nothing() const;
  void add_key_head(int64_t batch, int64_t head_k, Result& result) const;
  KeyHead<Real> gather_keys(int64_t batch, int64_t head_k) const;
  KeyGradients<Real> no_gradients(int64_t keys) const;
  Block<Real> attend(const Where& where, int64_t rows, const KeyHead<Real>& keys) const;
  Where where(int64_t batch, int64_t head, int64_t first) const;
  Real dlse(const Where& where, int64_t i) const;
  void write_out(const Block<Real>& block, std::vector<double>& out) const;
  void write_lse(const Where& where, const std::vector<Real>& lse, std::vector<double>& to) const;
  void write_gradients(const Formulas<Real>& formulas, const Block<Real>& block,
                       const RowGradients<Real>& g, std::vector<double>& dq,
                       std::vector<double>& dbias, std::vector<double>& dsinks) const;
  void write_keys(int64_t batch, int64_t head_k, KeyGradients<Real>& sums, std::vector<double>& dk,
                  std::vector<double>& dv) const;

  const BackwardArgs& args_;
  const Options& options_;
  Shapes shapes_;
  Formulas<Real> formulas_;
};

template <typename Real>
Result Call<Real>::nothing() const {
  const Shapes& s = shapes_;
  Result r;
  r.out.resize(s.rows.total * s.heads_q * s.dim_v);
  r.lse.resize(s.rows.total * s.heads_q, -std::numeric_limits<double>::infinity());
  if (args_.dout.given()) {
    r.dq.resize(s.rows.total * s.heads_q * s.dim);
    r.dk.resize(s.keys.total * s.heads_k * s.dim);
    r.dv.resize(s.keys.total * s.heads_k * s.dim_v);
    if (args_.dbias.given()) r.dbias.resize(numel(options_.bias));
    if (args_.dsinks.given()) r.dsinks.resize(s.heads_q);
  }
  if (exact) {
    r.lse_abs.resize(r.lse.size());
    r.out_abs = r.out;
    r.dq_abs = r.dq;
    r.dk_abs = r.dk;
    r.dv_abs = r.dv;
    r.dbias_abs = r.dbias;
    r.dsinks_abs = r.dsinks;
  }
  return r;
}

template <typename Real>
Where Call<Real>::where(int64_t batch, int64_t head, int64_t first) const {
  return {batch, head, first, shapes_.rows.span(batch).used, shapes_.keys.span(batch).used};
}

template <typename Real>
KeyHead<Real> Call<Real>::gather_keys(int64_t batch, int64_t head_k) const {
  const int64_t used = shapes_.keys.span(batch).used;
  return key_head(shapes_.keys.gather<Real>(args_.k, batch, head_k, 0, used),
                  shapes_.keys.gather<Real>(args_.v, batch, head_k, 0, used));
}

template <typename Real>
KeyGradients<Real> Call<Real>::no_gradients(int64_t keys) const {
  return {Matrix<Real>(keys, shapes_.dim), Matrix<Real>(keys, shapes_.dim_v)};
}

template <typename Real>
Real Call<Real>::dlse(const Where& w, int64_t i) const {
  if (!args_.dlse.given()) return 0;
  const int64_t row = w.first + i;
  return static_cast<Real>(
      shapes_.rows.packed ? element(args_.dlse, {w.head, shapes_.rows.span(w.batch).first + row})
                          : element(args_.dlse, {w.batch, w.head, row}));
}

template <typename Real>
Block<Real> Call<Real>::attend(const Where& w, int64_t rows, const KeyHead<Real>& keys) const {
  Block<Real> block;
  block.where = w;
  block.q = shapes_.rows.gather<Real>(args_.q, w.batch, w.head, w.first, rows);
  formulas_.forward(block, keys);
  if (args_.dout.given()) {
    block.dout = shapes_.rows.gather<Real>(args_.dout, w.batch, w.head, w.first, rows);
    block.dlse.resize(rows);
    for (int64_t i = 0; i < rows; ++i) {
      if (block.lse[i] == -std::numeric_limits<Real>::infinity()) {
        std::fill_n(block.dout[i], block.dout.cols(), Real{0});
      } else {
        block.dlse[i] = dlse(w, i);
      }
    }
  }
  return block;
}

template <typename Real>
void Call<Real>::write_out(const Block<Real>& block, std::vector<double>& out) const {
  const int64_t begin = shapes_.rows.span(block.where.batch).first + block.where.first;
  for (int64_t i = 0; i < block.out.rows(); ++i) {
    const int64_t to = Shapes::at(begin + i, block.where.head, shapes_.heads_q, shapes_.dim_v);
    std::copy_n(block.out[i], shapes_.dim_v, out.begin() + to);
  }
}

template <typename Real>
void Call<Real>::write_lse(const Where& where, const std::vector<Real>& lse,
                           std::vector<double>& to) const {
  std::copy(lse.begin(), lse.end(),
            to.begin() + shapes_.lse_at(where.batch, where.head, where.first));
}

template <typename Real>
void Call<Real>::write_gradients(const Formulas<Real>& formulas, const Block<Real>& block,
                                 const RowGradients<Real>& g, std::vector<double>& dq,
                                 std::vector<double>& dbias, std::vector<double>& dsinks) const {
  const Where& w = block.where;
  const auto add = [](double& sum, Real x) { sum = static_cast<Real>(sum) + x; };
  const int64_t begin = shapes_.rows.span(w.batch).first + w.first;
  for (int64_t i = 0; i < g.dq.rows(); ++i) {
    const int64_t to = Shapes::at(begin + i, w.head, shapes_.heads_q, shapes_.dim);
    std::copy_n(g.dq[i], shapes_.dim, dq.begin() + to);
    if (!args_.dbias.given()) continue;
    const int64_t* extent = options_.bias.shape;
    const int64_t b = extent[0] == 1 ? 0 : w.batch;
    const int64_t h = extent[1] == 1 ? 0 : w.head;
    const int64_t r = extent[2] == 1 ? 0 : w.first + i;
    double* row = dbias.data() + ((b * extent[1] + h) * extent[2] + r) * extent[3];
    for (int64_t j = 0; j < g.ds.cols(); ++j) add(row[j], g.ds[i][j]);
  }
  if (args_.dsinks.given()) add(dsinks[w.head], formulas.sink_gradient(block, g.delta));
}

template <typename Real>
void Call<Real>::write_keys(int64_t batch, int64_t head_k, KeyGradients<Real>& sums,
                            std::vector<double>& dk, std::vector<double>& dv) const {
  formulas_.round(sums.dk);
  formulas_.round(sums.dv);
  const int64_t begin = shapes_.keys.span(batch).first;
  for (int64_t j = 0; j < sums.dk.rows(); ++j) {
    const int64_t to = Shapes::at(begin + j, head_k, shapes_.heads_k, 1);
    std::copy_n(sums.dk[j], shapes_.dim, dk.begin() + to * shapes_.dim);
    std::copy_n(sums.dv[j], shapes_.dim_v, dv.begin() + to * shapes_.dim_v);
  }
}

template <typename Real>
void Call<Real>::add_key_head(int64_t batch, int64_t head_k, Result& r) const {
  const KeyHead<Real> keys = gather_keys(batch, head_k);
  const KeyHead<Real> keys_abs = exact ? absolute(keys) : KeyHead<Real>{};
  const Formulas<Real> formulas_abs = formulas_.of_sizes();
  KeyGradients<Real> sums = no_gradients(keys.k.rows());
  KeyGradients<Real> sums_abs = sums;
  const int64_t rows = shapes_.rows.span(batch).used;
  for (int64_t h = head_k * shapes_.group(); h < (head_k + 1) * shapes_.group(); ++h) {
    for (int64_t first = 0; first < rows; first += block_rows) {
      const Where w = where(batch, h, first);
      const Block<Real> block = attend(w, std::min(block_rows, rows - first), keys);
      write_out(block, r.out);
      write_lse(w, block.lse, r.lse);
      if (args_.dout.given()) {
        write_gradients(formulas_, block, formulas_.backward(block, keys, sums), r.dq, r.dbias,
                        r.dsinks);
      }
      if (!exact) continue;
      const std::vector<Real> score_sizes = formulas_abs.score_sizes(block, keys);
      const Block<Real> sizes = absolute(block, keys_abs, score_sizes, args_.q.dtype);
      write_out(sizes, r.out_abs);
      write_lse(w, lse_sizes(block.lse, score_sizes), r.lse_abs);
      if (args_.dout.given()) {
        write_gradients(formulas_abs, sizes, formulas_abs.backward(sizes, keys_abs, sums_abs),
                        r.dq_abs, r.dbias_abs, r.dsinks_abs);
      }
    }
  }
  if (!args_.dout.given()) return;
  write_keys(batch, head_k, sums, r.dk, r.dv);
  if (exact) write_keys(batch, head_k, sums_abs, r.dk_abs, r.dv_abs);
}

template <typename Real>
Result Call<Real>::all() const {
  Result r = nothing();
  for (int64_t b = 0; b < shapes_.batch; ++b) {
    for (int64_t h = 0; h < shapes_.heads_k; ++h) add_key_head(b, h, r);
  }
  if (!exact) {
    for (double& x : r.dbias) x = rounded(args_.dbias.dtype, static_cast<float>(x));
    for (double& x : r.dsinks) x = rounded(args_.dsinks.dtype, static_cast<float>(x));
  }
  return r;
}

template <typename Real>
Block<Real> Call<Real>::row(int64_t batch, int64_t head, int64_t i) const {
  return attend(where(batch, head, i), 1, gather_keys(batch, head / shapes_.group()));
}

template <typename Real>
std::vector<Real> Call<Real>::dq_row(int64_t batch, int64_t head, int64_t i) const {
  const KeyHead<Real> keys = gather_keys(batch, head / shapes_.group());
  KeyGradients<Real> sums = no_gradients(keys.k.rows());
  const Matrix<Real> dq = formulas_.backward(attend(where(batch, head, i), 1, keys), keys, sums).dq;
  return {dq.begin(), dq.end()};
}

template <typename Real>
KeyGradients<Real> Call<Real>::key_rows(int64_t batch, int64_t head_k,
                                        const std::vector<int64_t>& which) const {
  const KeyHead<Real> keys = gather_keys(batch, head_k);
  const KeyHead<Real> chosen = key_head(chosen_rows(keys.k, which), chosen_rows(keys.v, which));
  KeyGradients<Real> sums = no_gradients(chosen.k.rows());
  const int64_t rows = shapes_.rows.span(batch).used;
  for (int64_t h = head_k * shapes_.group(); h < (head_k + 1) * shapes_.group(); ++h) {
    for (int64_t first = 0; first < rows; first += block_rows) {
      Block<Real> block = attend(where(batch, h, first), std::min(block_rows, rows - first), keys);
      for (Matrix<Real>* m : {&block.p, &block.z, &block.pz, &block.capped}) {
        *m = chosen_columns(*m, which);
      }
      formulas_.backward(block, chosen, sums);
    }
  }
  formulas_.round(sums.dk);
  formulas_.round(sums.dv);
  return sums;
}

BackwardArgs without_gradients(const ForwardArgs& args) {
  BackwardArgs b;
  b.q = args.q;
  b.k = args.k;
  b.v = args.v;
  return b;
}

template <typename Real>
Row row_of(const Call<Real>& call, int64_t batch, int64_t head, int64_t row) {
  if (row >= call.shapes().rows.span(batch).used) {
    return {std::vector<double>(call.shapes().dim_v), -std::numeric_limits<double>::infinity()};
  }
  const Block<Real> block = call.row(batch, head, row);
  return {{block.out.begin(), block.out.end()}, block.lse[0]};
}

template <typename Real>
std::vector<double> dq_of(const Call<Real>& call, int64_t batch, int64_t head, int64_t row) {
  if (row >= call.shapes().rows.span(batch).used) return std::vector<double>(call.shapes().dim);
  const std::vector<Real> dq = call.dq_row(batch, head, row);
  return {dq.begin(), dq.end()};
}

template <typename Real>
std::vector<KeyRow> keys_of(const Call<Real>& call, int64_t batch, int64_t head_k,
                            const std::vector<int64_t>& keys) {
  const int64_t used = call.shapes().keys.span(batch).used;
  std::vector<int64_t> which;
  std::copy_if(keys.begin(), keys.end(), std::back_inserter(which),
               [used](int64_t key) { return key < used; });
  const KeyGradients<Real> sums = call.key_rows(batch, head_k, which);
  std::vector<KeyRow> result;
  int64_t next = 0;
  for (const int64_t key : keys) {
    KeyRow row{std::vector<double>(sums.dk.cols()), std::vector<double>(sums.dv.cols())};
    if (key < used) {
      std::copy_n(sums.dk[next], sums.dk.cols(), row.dk.begin());
      std::copy_n(sums.dv[next++], sums.dv.cols(), row.dv.begin());
    }
    result.push_back(std::move(row));
  }
  return result;
}

}  // namespace

Result forward(const ForwardArgs& args, const Options& options, Rounding rounding) {
  return backward(without_gradients(args), options, rounding);
}

Result backward(const BackwardArgs& args, const Options& options, Rounding rounding) {
  if (rounding == Rounding::exact) return Call<double>(args, options).all();
  return Call<float>(args, options).all();
}

Row forward_row(const ForwardArgs& args, const Options& options, int64_t batch, int64_t head,
                int64_t row, Rounding rounding) {
  const BackwardArgs a = without_gradients(args);
  if (rounding == Rounding::exact) return row_of(Call<double>(a, options), batch, head, row);
  return row_of(Call<float>(a, options), batch, head, row);
}

std::vector<double> dq_row(const BackwardArgs& args, const Options& options, int64_t batch,
                           int64_t head, int64_t row, Rounding rounding) {
  if (rounding == Rounding::exact) return dq_of(Call<double>(args, options), batch, head, row);
  return dq_of(Call<float>(args, options), batch, head, row);
}

std::vector<KeyRow> dkv_rows(const BackwardArgs& args, const Options& options, int64_t batch,
                             int64_t head_k, const std::vector<int64_t>& keys, Rounding rounding) {
  if (rounding == Rounding::exact) {
    return keys_of(Call<double>(args, options), batch, head_k, keys);
  }
  return keys_of(Call<float>(args, options), batch, head_k, keys);
}

}  // namespace fa::reference
