// Causal attention with grouped query heads, forward and backward, checked against plain loops.
#include <cmath>
#include <cstdio>
#include <fa/attention.hpp>
#include <random>
#include <vector>

constexpr int64_t S = 96, Hq = 4, Hk = 2,
                  D = 32;  // one sequence: q [1, S, Hq, D], k, v [1, S, Hk, D]
using Floats = std::vector<float>;
using Doubles = std::vector<double>;

Doubles attention(const Doubles& q, const Doubles& k, const Doubles& v) {
  Doubles out(S * Hq * D);
  for (int64_t h = 0; h < Hq; ++h) {
    const int64_t g = h / (Hq / Hk);  // the key head
    for (int64_t i = 0; i < S; ++i) {
      double sum = 0;
      double* row = &out[(i * Hq + h) * D];
      for (int64_t j = 0; j <= i; ++j) {
        double score = 0;
        for (int64_t d = 0; d < D; ++d) score += q[(i * Hq + h) * D + d] * k[(j * Hk + g) * D + d];
        const double p = std::exp(score / std::sqrt(D));
        sum += p;
        for (int64_t d = 0; d < D; ++d) row[d] += p * v[(j * Hk + g) * D + d];
      }
      for (int64_t d = 0; d < D; ++d) row[d] /= sum;
    }
  }
  return out;
}

template <typename A, typename B>
double dot(const A& a, const B& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * b[i];
  return sum;
}

int main() {
  std::mt19937 engine(1);
  const auto random = [&](int64_t size) {
    Floats x(size);
    for (float& value : x) value = std::normal_distribution<float>()(engine);
    return x;
  };
  const Floats q = random(S * Hq * D), k = random(S * Hk * D), v = random(S * Hk * D);
  const Floats dout = random(S * Hq * D);  // the gradient of the loss by out
  Floats out(q.size()), lse(Hq * S), dq(q.size()), dk(k.size()), dv(v.size());

  const auto view = [](const Floats& x, int64_t heads) {
    return fa::View(x.data(), fa::float32, {1, S, heads, D});
  };
  const fa::View lse_view(lse.data(), fa::float32, {1, Hq, S});
  const fa::Options options{.causal = true};
  fa::forward(view(q, Hq), view(k, Hk), view(v, Hk), view(out, Hq), lse_view, options);
  fa::backward(view(dout, Hq), view(q, Hq), view(k, Hk), view(v, Hk), view(out, Hq), lse_view,
               view(dq, Hq), view(dk, Hk), view(dv, Hk), options);

  // The derivative of the loss <dout, out> along a random direction, by the gradients ...
  const Floats uq = random(q.size()), uk = random(k.size()), uv = random(v.size());
  const double derivative = dot(dq, uq) + dot(dk, uk) + dot(dv, uv);
  // ... and by the difference of the formula's values.
  const auto loss = [&](double step) {
    const auto moved = [&](const Floats& x, const Floats& u) {
      Doubles y(x.begin(), x.end());
      for (size_t i = 0; i < y.size(); ++i) y[i] += step * u[i];
      return y;
    };
    return dot(dout, attention(moved(q, uq), moved(k, uk), moved(v, uv)));
  };
  const double difference = (loss(1e-4) - loss(-1e-4)) / 2e-4;
  std::printf("loss       %12.6f  by the formula %12.6f\n", dot(dout, out), loss(0));
  std::printf("derivative %12.6f  by the formula %12.6f\n", derivative, difference);
  const bool right = std::abs(dot(dout, out) - loss(0)) < 1e-3;
  return right && std::abs(derivative - difference) < 1e-3 ? 0 : 1;
}
