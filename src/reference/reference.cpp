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
KeyHead<Real> absolute(const KeyHead<Real>& keys, DType dtype) {
  return {absolute_input(keys.k, dtype, dtype), absolute_input(keys.v, dtype, dtype),
          absolute_input(keys.k_t, dtype, dtype), absolute_input(keys.v_t, dtype, dtype)};
}

/// P as the sums over absolute values have it: exp of a float32 sum, which a rounding of that sum,
/// of the size `exponents`, changes by its size times 2^-23; and it may lose what is below a normal
/// number: P itself, or in float16 dS, which is rounded relative to the largest that its head may
/// have.
template <typename Real>
void set_weights(Block<Real>& b, const Matrix<Real>& p, const std::vector<Real>& exponents,
                 DType dtype, double dropout_p) {
  const double least =
      dtype == float16 ? 0x1p-24 / (1 - dropout_p) : smallest_normal(float32) / epsilon(dtype);
  for (int64_t i = 0; i < p.rows(); ++i) {
    const Real weight = 1 + exponents[i] * epsilon(float32) / epsilon(dtype);
    for (int64_t j = 0; j < p.cols(); ++j) b.p[i][j] = p[i][j] * weight + static_cast<Real>(least);
  }
  b.pz = b.z.empty() ? b.p : times(b.p, b.z);
}

/// A block whose backward pass gives the sums over absolute values, in units of the dtype's
/// epsilon.
template <typename Real>
Block<Real> absolute(const Block<Real>& block, const KeyHead<Real>& keys_abs,
                     std::vector<Real> score_sizes, DType dtype, double dropout_p) {
  Block<Real> b = block;
  b.q = absolute_input(block.q, dtype, dtype);
  b.dout = absolute_input(block.dout, dtype, dtype);
  for (Real& x : b.dlse) x = std::fabs(x);
  set_weights(b, block.p, score_sizes, dtype, dropout_p);
  b.out = product(b.pz, keys_abs.v);
  const double least = smallest_normal(dtype) + least_products(dtype, b.p.cols());
  for (Real& x : b.out) x += static_cast<Real>(least);
  // The backward pass has exp(s - LSE), with LSE as float32 stores it.
  for (size_t i = 0; i < score_sizes.size(); ++i) {
    if (std::isfinite(block.lse[i])) score_sizes[i] += std::fabs(block.lse[i]);
    b.lse[i] -= std::log(1 + score_sizes[i] * epsilon(float32) / epsilon(dtype));  // the sink's P
  }
  set_weights(b, block.p, score_sizes, dtype, dropout_p);
  return b;
}

/// A block's sums over absolute values.
template <typename Real>
struct Sizes {
  Block<Real> block;
  std::vector<Real> lse;
};

/// LSE = max + log(sum): the sizes of the scores, of LSE itself, and of a relative error of the
/// sum.
template <typename Real>
std::vector<Real> lse_sizes(const std::vector<Real>& lse, std::vector<Real> score_sizes) {
  for (size_t i = 0; i < lse.size(); ++i) {
    score_sizes[i] = std::isfinite(lse[i]) ? score_sizes[i] + std::fabs(lse[i]) + 1 : 0;
  }
  return score_sizes;
}

/// The block with only some of its keys, for `Formulas::backward`.
template <typename Real>
Block<Real> chosen_keys(Block<Real> block, const std::vector<int64_t>& which) {
  for (Matrix<Real>* m : {&block.p, &block.z, &block.pz, &block.capped}) {
    *m = chosen_columns(*m, which);
  }
  return block;
}

/// Gradients of keys, and the sums over absolute values behind them.
template <typename Real>
struct KeySums {
  KeyGradients<Real> values, abs;
};

/// One call: its sequences and heads, walked through in blocks of rows.
template <typename Real>
class Call {
 public:
  Call(const BackwardArgs& args, const Options& options)
      : args_(args),
        options_(options),
        shapes_(args, options),
        formulas_(args, options, shapes_),
        formulas_abs_(formulas_.of_sizes()) {}

  static constexpr bool exact = std::is_same_v<Real, double>;

  Result all() const;
  Row row(int64_t batch, int64_t head, int64_t i) const;
  Part dq_row(int64_t batch, int64_t head, int64_t i) const;
  KeySums<Real> key_rows(int64_t batch, int64_t head_k, const std::vector<int64_t>& which) const;

  const Shapes& shapes() const { return shapes_; }

 private:
  Result nothing() const;
  void add_key_head(int64_t batch, int64_t head_k, Result& result) const;
  KeyHead<Real> gather_keys(int64_t batch, int64_t head_k) const;
  KeyGradients<Real> no_gradients(int64_t keys) const;
  Block<Real> attend(const Where& where, int64_t rows, const KeyHead<Real>& keys) const;
  Sizes<Real> sizes(const Block<Real>& block, const KeyHead<Real>& keys,
                    const KeyHead<Real>& keys_abs) const;
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
  Formulas<Real> formulas_abs_;
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
Sizes<Real> Call<Real>::sizes(const Block<Real>& block, const KeyHead<Real>& keys,
                              const KeyHead<Real>& keys_abs) const {
  const std::vector<Real> score_sizes = formulas_abs_.score_sizes(block, keys);
  return {absolute(block, keys_abs, score_sizes, args_.q.dtype, options_.dropout_p),
          lse_sizes(block.lse, score_sizes)};
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
  const KeyHead<Real> keys_abs = exact ? absolute(keys, args_.q.dtype) : KeyHead<Real>{};
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
      const Sizes<Real> behind = sizes(block, keys, keys_abs);
      write_out(behind.block, r.out_abs);
      write_lse(w, behind.lse, r.lse_abs);
      if (args_.dout.given()) {
        write_gradients(formulas_abs_, behind.block,
                        formulas_abs_.backward(behind.block, keys_abs, sums_abs), r.dq_abs,
                        r.dbias_abs, r.dsinks_abs);
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
Row Call<Real>::row(int64_t batch, int64_t head, int64_t i) const {
  const KeyHead<Real> keys = gather_keys(batch, head / shapes_.group());
  const Block<Real> block = attend(where(batch, head, i), 1, keys);
  Row row{{{block.out.begin(), block.out.end()}, {}}, {{block.lse[0]}, {}}};
  if (exact) {
    const Sizes<Real> behind = sizes(block, keys, absolute(keys, args_.q.dtype));
    row.out.abs.assign(behind.block.out.begin(), behind.block.out.end());
    row.lse.abs = {behind.lse[0]};
  }
  return row;
}

template <typename Real>
Part Call<Real>::dq_row(int64_t batch, int64_t head, int64_t i) const {
  const KeyHead<Real> keys = gather_keys(batch, head / shapes_.group());
  KeyGradients<Real> unused = no_gradients(keys.k.rows());
  const Block<Real> block = attend(where(batch, head, i), 1, keys);
  const Matrix<Real> dq = formulas_.backward(block, keys, unused).dq;
  Part row{{dq.begin(), dq.end()}, {}};
  if (exact) {
    const KeyHead<Real> keys_abs = absolute(keys, args_.q.dtype);
    const Block<Real> behind = sizes(block, keys, keys_abs).block;
    const Matrix<Real> dq_abs = formulas_abs_.backward(behind, keys_abs, unused).dq;
    row.abs.assign(dq_abs.begin(), dq_abs.end());
  }
  return row;
}

template <typename Real>
KeySums<Real> Call<Real>::key_rows(int64_t batch, int64_t head_k,
                                   const std::vector<int64_t>& which) const {
  const KeyHead<Real> keys = gather_keys(batch, head_k);
  const KeyHead<Real> keys_abs = exact ? absolute(keys, args_.q.dtype) : KeyHead<Real>{};
  const KeyHead<Real> chosen = key_head(chosen_rows(keys.k, which), chosen_rows(keys.v, which));
  const KeyHead<Real> chosen_abs = absolute(chosen, args_.q.dtype);
  KeySums<Real> sums{no_gradients(chosen.k.rows()), no_gradients(chosen.k.rows())};
  const int64_t rows = shapes_.rows.span(batch).used;
  for (int64_t h = head_k * shapes_.group(); h < (head_k + 1) * shapes_.group(); ++h) {
    for (int64_t first = 0; first < rows; first += block_rows) {
      const Block<Real> block =
          attend(where(batch, h, first), std::min(block_rows, rows - first), keys);
      formulas_.backward(chosen_keys(block, which), chosen, sums.values);
      if (!exact) continue;
      formulas_abs_.backward(chosen_keys(sizes(block, keys, keys_abs).block, which), chosen_abs,
                             sums.abs);
    }
  }
  formulas_.round(sums.values.dk);
  formulas_.round(sums.values.dv);
  return sums;
}

BackwardArgs without_gradients(const ForwardArgs& args) {
  BackwardArgs b;
  b.q = args.q;
  b.k = args.k;
  b.v = args.v;
  return b;
}

/// `width` zeros, as rows beyond the used length are.
template <typename Real>
Part nothing_of(const Call<Real>& call, int64_t width) {
  const std::vector<double> zeros(width);
  return {zeros, call.exact ? zeros : std::vector<double>{}};
}

template <typename Real>
Row row_of(const Call<Real>& call, int64_t batch, int64_t head, int64_t row) {
  if (row < call.shapes().rows.span(batch).used) return call.row(batch, head, row);
  Row empty{nothing_of(call, call.shapes().dim_v), nothing_of(call, 1)};
  empty.lse.values = {-std::numeric_limits<double>::infinity()};
  return empty;
}

template <typename Real>
Part dq_of(const Call<Real>& call, int64_t batch, int64_t head, int64_t row) {
  if (row < call.shapes().rows.span(batch).used) return call.dq_row(batch, head, row);
  return nothing_of(call, call.shapes().dim);
}

template <typename Real>
std::vector<KeyRow> keys_of(const Call<Real>& call, int64_t batch, int64_t head_k,
                            const std::vector<int64_t>& keys) {
  const int64_t used = call.shapes().keys.span(batch).used;
  std::vector<int64_t> which;
  std::copy_if(keys.begin(), keys.end(), std::back_inserter(which),
               [used](int64_t key) { return key < used; });
  const KeySums<Real> sums = call.key_rows(batch, head_k, which);
  const auto copy = [&call](Part& to, int64_t row, const Matrix<Real>& values,
                            const Matrix<Real>& abs) {
    std::copy_n(values[row], values.cols(), to.values.begin());
    if (call.exact) std::copy_n(abs[row], abs.cols(), to.abs.begin());
  };
  std::vector<KeyRow> result;
  int64_t next = 0;
  for (const int64_t key : keys) {
    KeyRow& row = result.emplace_back(
        KeyRow{nothing_of(call, call.shapes().dim), nothing_of(call, call.shapes().dim_v)});
    if (key >= used) continue;
    copy(row.dk, next, sums.values.dk, sums.abs.dk);
    copy(row.dv, next++, sums.values.dv, sums.abs.dv);
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

Part dq_row(const BackwardArgs& args, const Options& options, int64_t batch, int64_t head,
            int64_t row, Rounding rounding) {
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
