// A matrix as the judge's formula has it, and its products.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "problem.hpp"

namespace judge {

inline constexpr double least_normal = 0x1p-126;  // of float32

// c[i][n] += sum over m of a[i][m] b[m][n], one product after the other.
template <typename T>
void multiply(const std::vector<T>& a, const std::vector<T>& b, std::vector<T>& c, int64_t rows,
              int64_t inner, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) {
    T* __restrict to = c.data() + i * columns;
    for (int64_t m = 0; m < inner; ++m) {
      const T factor = a[static_cast<size_t>(i * inner + m)];
      if (factor == 0) continue;
      const T* __restrict from = b.data() + m * columns;
      for (int64_t n = 0; n < columns; ++n) to[n] += factor * from[n];
    }
  }
}

// c[m][n] += sum over i of a[i][m] b[i][n]
template <typename T>
void multiply_transposed(const std::vector<T>& a, const std::vector<T>& b, std::vector<T>& c,
                         int64_t rows, int64_t inner, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) {
    const T* __restrict from = b.data() + i * columns;
    for (int64_t m = 0; m < inner; ++m) {
      const T factor = a[static_cast<size_t>(i * inner + m)];
      if (factor == 0) continue;
      T* __restrict to = c.data() + m * columns;
      for (int64_t n = 0; n < columns; ++n) to[n] += factor * from[n];
    }
  }
}

template <typename T>
std::vector<T> zeros(int64_t n) {
  return std::vector<T>(static_cast<size_t>(n));
}

// A matrix three times: exact, over absolute values, and as the plain formula has it.
struct Matrix {
  std::vector<double> exact;
  std::vector<double> size;
  std::vector<float> plain;

  Matrix() = default;
  explicit Matrix(int64_t n) : exact(zeros<double>(n)), size(exact), plain(zeros<float>(n)) {}

  // An input, which is exact; but where it is subnormal it may count as 0: `lost` is the size of
  // that.
  void take(size_t n, double x, double lost) {
    exact[n] = x;
    size[n] = std::abs(x) + (x != 0 && std::abs(x) < least_normal ? lost : 0);
    plain[n] = static_cast<float>(x);
  }
  static Matrix of(const Tensor& tensor, const Side& side, int64_t sequence, int64_t rows,
                   int64_t head, int64_t dim, double lost) {
    Matrix m(rows * dim);
    for (int64_t i = 0; i < rows; ++i) {
      tensor.read_row(side.at(sequence, i, head, 0), m.exact.data() + i * dim);
    }
    for (size_t n = 0; n < m.exact.size(); ++n) m.take(n, m.exact[n], lost);
    return m;
  }
  [[nodiscard]] Matrix transposed(int64_t rows, int64_t columns, double lost) const {
    Matrix m(rows * columns);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t n = 0; n < columns; ++n) {
        m.take(static_cast<size_t>(n * rows + i), exact[static_cast<size_t>(i * columns + n)],
               lost);
      }
    }
    return m;
  }
  void add_product(const Matrix& a, const Matrix& b, int64_t rows, int64_t inner, int64_t columns) {
    multiply(a.exact, b.exact, exact, rows, inner, columns);
    multiply(a.size, b.size, size, rows, inner, columns);
    multiply(a.plain, b.plain, plain, rows, inner, columns);
  }
  void add_transposed_product(const Matrix& a, const Matrix& b, int64_t rows, int64_t inner,
                              int64_t columns) {
    multiply_transposed(a.exact, b.exact, exact, rows, inner, columns);
    multiply_transposed(a.size, b.size, size, rows, inner, columns);
    multiply_transposed(a.plain, b.plain, plain, rows, inner, columns);
  }
};

}  // namespace judge
