// The formulas of docs/numerics.md on a block of rows of one query head and the keys it reads.
// Real is double for the exact result. With float, sums are in float32 and every intermediate
// tensor is rounded to q's dtype, as a framework would compute the formulas one by one.
//
// n rows, m keys: q [n, D], k [m, D], v [m, Dv], dO and O [n, Dv], S, P, Z, dP, dS [n, m].
#pragma once

#include <cstdint>
#include <vector>

#include "fa/attention.hpp"
#include "reference/layout.hpp"
#include "reference/matrix.hpp"

namespace fa::reference {

/// The least size of `count` products in a sum. A product below the smallest normal number has
/// fewer digits, and CPUs that multiply bfloat16 as it is take subnormal sums as 0.
double least_products(DType dtype, int64_t count);

/// Absolute values of an input, as sums that are judged with the epsilon of `judged_as` take them:
/// the same CPUs take a subnormal input as 0.
template <typename Real>
Matrix<Real> absolute_input(Matrix<Real> a, DType dtype, DType judged_as);

/// The keys of one key head.
template <typename Real>
struct KeyHead {
  Matrix<Real> k, v;
  Matrix<Real> k_t, v_t;  ///< their transposes
};
template <typename Real>
KeyHead<Real> key_head(Matrix<Real> k, Matrix<Real> v);

/// Which rows a block holds, and the lengths that its masks depend on.
struct Where {
  int64_t batch = 0;
  int64_t head = 0;
  int64_t first = 0;  ///< row of the sequence that is the block's first
  int64_t rows = 0;   ///< used rows of the sequence
  int64_t keys = 0;
};

/// A block of rows of one query head: what it is given, and what the forward pass makes of it.
template <typename Real>
struct Block {
  Where where;
  Matrix<Real> q;
  Matrix<Real> dout;       ///< dO and dLSE only for a backward pass; 0 in rows that see no key
  std::vector<Real> dlse;  ///< and have no sink, which pass nothing on

  Matrix<Real> p;       ///< softmax(S)
  Matrix<Real> z;       ///< dropout: keep / (1 - p); empty means ones
  Matrix<Real> pz;      ///< P Z
  Matrix<Real> capped;  ///< tanh(s / softcap); empty without softcap
  Matrix<Real> out;
  std::vector<Real> lse;
};

/// A backward pass. dk and dv belong to all rows of the group: `backward` adds to them.
template <typename Real>
struct RowGradients {
  std::vector<Real> delta;
  Matrix<Real> ds;  ///< the gradient of the scores as the bias sees them
  Matrix<Real> dq;
};
template <typename Real>
struct KeyGradients {
  Matrix<Real> dk, dv;
};

template <typename Real>
class Formulas {
 public:
  Formulas(const BackwardArgs& args, const Options& options, const Shapes& shapes);

  /// Fills P, Z, P Z, O and LSE.
  void forward(Block<Real>& block, const KeyHead<Real>& keys) const;
  RowGradients<Real> backward(const Block<Real>& block, const KeyHead<Real>& keys,
                              KeyGradients<Real>& sums) const;
  /// The gradient of the head's sink through the block's rows.
  Real sink_gradient(const Block<Real>& block, const std::vector<Real>& delta) const;

  /// Formulas whose sums run over absolute values, if the operands are absolute values, too.
  Formulas of_sizes() const;
  /// For each row the largest sum over absolute values behind a score that is not masked.
  std::vector<Real> score_sizes(const Block<Real>& block, const KeyHead<Real>& keys) const;

  /// Rounds a tensor as q's dtype holds it; nothing for double.
  void round(Matrix<Real>& tensor) const;

 private:
  bool visible(const Where& where, int64_t i, int64_t j) const;
  /// The sum of the terms that are added to a score: ALiBi and the bias.
  double added(const Where& where, int64_t i, int64_t j, bool sizes) const;
  Matrix<Real> scores(Block<Real>& block, const KeyHead<Real>& keys) const;
  void softmax(Block<Real>& block) const;
  Matrix<Real> dropout(const Where& where, int64_t rows) const;
  Real sink(int64_t head) const;

  const Options& options_;
  DType dtype_;
  int64_t heads_q_;
  Real scale_;
  Real softcap_;
  Real minus_ = -1;  ///< the sign of what is subtracted: +1 in sums over absolute values
  Real least_ = 0;   ///< in these, what a gradient counts at least
};

}  // namespace fa::reference
