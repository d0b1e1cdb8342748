#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "demo/quadratic.cpp"
#include "hwy/foreach_target.h"  // must come first
// clang-format off
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "demo/quadratic.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cli::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// C [rows] x [2 vectors] (+)= A B over `depth`; B's rows are read `ldb` apart.
template <int rows>
HWY_ATTR void Tile(int64_t depth, const Factor& a, const float* HWY_RESTRICT b, int64_t ldb,
                   float* HWY_RESTRICT c, int64_t ldc, bool add) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  hn::Vec<decltype(d)> sum[rows][2];
  for (int i = 0; i < rows; ++i) {
    sum[i][0] = add ? hn::LoadU(d, c + i * ldc) : hn::Zero(d);
    sum[i][1] = add ? hn::LoadU(d, c + i * ldc + lanes) : hn::Zero(d);
  }
  for (int64_t k = 0; k < depth; ++k) {
    const auto b0 = hn::LoadU(d, b + k * ldb);
    const auto b1 = hn::LoadU(d, b + k * ldb + lanes);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const auto x = hn::Set(d, a.a[i * a.row + k * a.column]);
      sum[i][0] = hn::MulAdd(x, b0, sum[i][0]);
      sum[i][1] = hn::MulAdd(x, b1, sum[i][1]);
    }
  }
  for (int i = 0; i < rows; ++i) {
    hn::StoreU(sum[i][0], d, c + i * ldc);
    hn::StoreU(sum[i][1], d, c + i * ldc + lanes);
  }
}

/// C [m][n] = A B, all of them with n and ldb a multiple of 32. Blocks of B stay in the cache.
HWY_ATTR void Product(int64_t m, int64_t n, int64_t depth, const Factor& a, const float* b,
                      int64_t ldb, float* c, int64_t ldc) {
  constexpr int64_t block = 256;
  const auto width = 2 * static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
  for (int64_t k = 0; k < depth; k += block) {
    const int64_t deep = std::min(block, depth - k);
    for (int64_t j = 0; j < n; j += width) {
      const float* b_block = b + k * ldb + j;
      int64_t i = 0;
      for (; i + 6 <= m; i += 6) {
        const Factor part{a.a + i * a.row + k * a.column, a.row, a.column};
        Tile<6>(deep, part, b_block, ldb, c + i * ldc + j, ldc, k > 0);
      }
      for (; i < m; ++i) {
        const Factor part{a.a + i * a.row + k * a.column, a.row, a.column};
        Tile<1>(deep, part, b_block, ldb, c + i * ldc + j, ldc, k > 0);
      }
    }
  }
}

/// Row i of softmax(scale * S) with the keys after i masked, in place; n is a multiple of 32.
HWY_ATTR void SoftmaxRow(float* HWY_RESTRICT s, int64_t i, int64_t n, float scale) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  std::fill(s + i + 1, s + n, -std::numeric_limits<float>::infinity());
  const int64_t end = (i / lanes + 1) * lanes;
  auto maximum = hn::LoadU(d, s);
  for (int64_t j = 0; j < end; j += lanes) maximum = hn::Max(maximum, hn::LoadU(d, s + j));
  maximum = hn::MaxOfLanes(d, maximum);
  const auto factor = hn::Set(d, scale);
  auto sum = hn::Zero(d);
  for (int64_t j = 0; j < end; j += lanes) {
    const auto x = hn::Exp(d, hn::Mul(factor, hn::Sub(hn::LoadU(d, s + j), maximum)));
    sum = hn::Add(sum, x);
    hn::StoreU(x, d, s + j);
  }
  const auto inverse = hn::Set(d, 1 / hn::GetLane(hn::SumOfLanes(d, sum)));
  for (int64_t j = 0; j < end; j += lanes) {
    hn::StoreU(hn::Mul(inverse, hn::LoadU(d, s + j)), d, s + j);
  }
  std::fill(s + end, s + n, 0.0f);
}

}  // namespace fa::cli::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fa::cli {
namespace {

HWY_EXPORT(Product);
HWY_EXPORT(SoftmaxRow);

constexpr int64_t stripe = 96;  ///< rows that a thread takes at a time

/// C [m][n] = A B by all threads.
void product(int64_t m, int64_t n, int64_t depth, Factor a, const float* b, int64_t ldb, float* c,
             int64_t ldc) {
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < m; i += stripe) {
    HWY_DYNAMIC_DISPATCH(Product)
    (std::min(stripe, m - i), n, depth, {a.a + i * a.row, a.row, a.column}, b, ldb, c + i * ldc,
     ldc);
  }
}

std::vector<float> transposed(const float* a, int64_t rows, int64_t columns) {
  std::vector<float> t(static_cast<size_t>(rows * columns));
#pragma omp parallel for
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) t[static_cast<size_t>(c * rows + r)] = a[r * columns + c];
  }
  return t;
}

/// dS = scale * P * (dP - delta), in place of dP.
void softmax_gradient_row(float* ds, const float* p, const float* dout, const float* out,
                          const PlainShape& shape, float scale) {
  float delta = 0;
  for (int64_t x = 0; x < shape.head_dim; ++x) delta += dout[x] * out[x];
  for (int64_t j = 0; j < shape.seqlen; ++j) ds[j] = scale * p[j] * (ds[j] - delta);
}

}  // namespace

void plain_forward(const PlainShape& shape, const float* q, const float* k, const float* v,
                   float* p, float* out) {
  const int64_t n = shape.seqlen;
  const int64_t d = shape.head_dim;
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  for (int64_t h = 0; h < shape.heads; ++h) {
    const int64_t at = h * n * d;
    float* scores = p + h * n * n;
    product(n, n, d, {q + at, d, 1}, transposed(k + at, n, d).data(), n, scores, n);
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t i = 0; i < n; ++i) {
      HWY_DYNAMIC_DISPATCH(SoftmaxRow)(scores + i * n, i, n, scale);
    }
    product(n, d, n, {scores, n, 1}, v + at, d, out + at, d);
  }
}

void plain_backward(const PlainShape& shape, const float* dout, const float* q, const float* k,
                    const float* v, const float* out, const float* p, float* ds, float* dq,
                    float* dk, float* dv) {
  const int64_t n = shape.seqlen;
  const int64_t d = shape.head_dim;
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  for (int64_t h = 0; h < shape.heads; ++h) {
    const int64_t at = h * n * d;
    const float* weights = p + h * n * n;
    float* gradient = ds + h * n * n;
    product(n, d, n, {weights, 1, n}, dout + at, d, dv + at, d);
    product(n, n, d, {dout + at, d, 1}, transposed(v + at, n, d).data(), n, gradient, n);
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t i = 0; i < n; ++i) {
      softmax_gradient_row(gradient + i * n, weights + i * n, dout + at + i * d, out + at + i * d,
                           shape, scale);
    }
    product(n, d, n, {gradient, n, 1}, k + at, d, dq + at, d);
    product(n, d, n, {gradient, 1, n}, q + at, d, dk + at, d);
  }
}

}  // namespace fa::cli
#endif
