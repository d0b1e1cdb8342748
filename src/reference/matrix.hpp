// Dense row-major matrices and the few operations that the formulas need.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace fa::reference {

template <typename Real>
class Matrix {
 public:
  Matrix() = default;
  Matrix(int64_t rows, int64_t cols) : rows_(rows), cols_(cols), data_(rows * cols) {}

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  bool empty() const { return data_.empty(); }
  Real* operator[](int64_t row) { return data_.data() + row * cols_; }
  const Real* operator[](int64_t row) const { return data_.data() + row * cols_; }
  Real* begin() { return data_.data(); }
  Real* end() { return data_.data() + data_.size(); }
  const Real* begin() const { return data_.data(); }
  const Real* end() const { return data_.data() + data_.size(); }

 private:
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  std::vector<Real> data_;
};

template <typename Real>
Matrix<Real> transposed(const Matrix<Real>& a) {
  Matrix<Real> t(a.cols(), a.rows());
  for (int64_t i = 0; i < a.rows(); ++i) {
    for (int64_t j = 0; j < a.cols(); ++j) t[j][i] = a[i][j];
  }
  return t;
}

template <typename Real>
Matrix<Real> absolute(Matrix<Real> a) {
  for (Real& x : a) x = std::fabs(x);
  return a;
}

/// Element by element.
template <typename Real>
Matrix<Real> times(Matrix<Real> a, const Matrix<Real>& b) {
  for (int64_t i = 0; i < a.rows(); ++i) {
    for (int64_t j = 0; j < a.cols(); ++j) a[i][j] *= b[i][j];
  }
  return a;
}

template <typename Real>
Matrix<Real> chosen_rows(const Matrix<Real>& a, const std::vector<int64_t>& which) {
  Matrix<Real> c(static_cast<int64_t>(which.size()), a.cols());
  for (int64_t i = 0; i < c.rows(); ++i) std::copy_n(a[which[i]], a.cols(), c[i]);
  return c;
}

/// An empty matrix stays empty.
template <typename Real>
Matrix<Real> chosen_columns(const Matrix<Real>& a, const std::vector<int64_t>& which) {
  if (a.empty()) return {};
  Matrix<Real> c(a.rows(), static_cast<int64_t>(which.size()));
  for (int64_t i = 0; i < c.rows(); ++i) {
    for (int64_t j = 0; j < c.cols(); ++j) c[i][j] = a[i][which[j]];
  }
  return c;
}

/// c += a b. Each sum runs in the order of its index, in Real; only columns are taken together, so
/// that the compiler can keep them in registers.
template <typename Real>
void add_product(Matrix<Real>& c, const Matrix<Real>& a, const Matrix<Real>& b) {
  constexpr int64_t width = 64 / sizeof(Real);
  for (int64_t i = 0; i < a.rows(); ++i) {
    int64_t j = 0;
    for (; j + width <= b.cols(); j += width) {
      Real sum[width];
      std::copy_n(c[i] + j, width, sum);
      for (int64_t l = 0; l < a.cols(); ++l) {
        for (int64_t w = 0; w < width; ++w) sum[w] += a[i][l] * b[l][j + w];
      }
      std::copy_n(sum, width, c[i] + j);
    }
    for (; j < b.cols(); ++j) {
      for (int64_t l = 0; l < a.cols(); ++l) c[i][j] += a[i][l] * b[l][j];
    }
  }
}

template <typename Real>
Matrix<Real> product(const Matrix<Real>& a, const Matrix<Real>& b) {
  Matrix<Real> c(a.rows(), b.cols());
  add_product(c, a, b);
  return c;
}

}  // namespace fa::reference
