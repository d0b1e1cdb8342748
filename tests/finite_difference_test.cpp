// Every gradient of the reference against central differences of its own forward pass, float64.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "floats.hpp"
#include "reference/reference.hpp"

namespace fa::reference {
namespace {

using test::Floats;
using test::Ints;

/// A small problem whose loss is <O, dO> + <LSE, dLSE>.
struct Problem {
  std::mt19937 random{3};
  Floats q, k, v, dout, dlse, bias, sinks, slopes;
  Options options;

  explicit Problem(int64_t rows = 5, int64_t keys = 6, int64_t heads_q = 4, int64_t heads_k = 2,
                   int64_t dim = 8, int64_t dim_v = 16) {
    q = test::normal({2, rows, heads_q, dim}, random);
    k = test::normal({2, keys, heads_k, dim}, random);
    v = test::normal({2, keys, heads_k, dim_v}, random);
    dout = test::normal({2, rows, heads_q, dim_v}, random);
    dlse = test::normal({2, heads_q, rows}, random);
  }
  void pack() {
    for (Floats* t : {&q, &k, &v, &dout}) {
      t->shape = {t->shape[0] * t->shape[1], t->shape[2], t->shape[3]};
    }
    dlse.shape = {dlse.shape[1], dlse.shape[0] * dlse.shape[2]};
  }
  void add_bias(std::vector<int64_t> shape) { bias = test::normal(std::move(shape), random); }
  void add_sinks() { sinks = test::normal({q.shape[q.shape.size() - 2]}, random); }

  Options all_options() const {
    Options o = options;
    if (!bias.data.empty()) o.bias = bias;
    if (!sinks.data.empty()) o.sinks = sinks;
    if (!slopes.data.empty()) o.alibi_slopes = slopes;
    return o;
  }
  double loss() const {
    const Result r = forward({q, k, v, {}, {}}, all_options(), Rounding::exact);
    double sum = 0;
    for (size_t i = 0; i < r.out.size(); ++i) sum += r.out[i] * dout.data[i];
    for (size_t i = 0; i < r.lse.size(); ++i) {
      if (std::isfinite(r.lse[i])) sum += r.lse[i] * dlse.data[i];
    }
    return sum;
  }
  Result gradients() const {
    BackwardArgs args{dout, q, k, v, {}, {}, {}, {}, {}, dlse};
    if (!bias.data.empty()) args.dbias = bias;
    if (!sinks.data.empty()) args.dsinks = sinks;
    return backward(args, all_options(), Rounding::exact);
  }
  /// Fourth-order central differences by every number of `input`, which is one of the members.
  void expect(const char* name, Floats& input, const std::vector<double>& gradient) const {
    constexpr float step = 0x1p-8;
    ASSERT_EQ(input.data.size(), gradient.size()) << name;
    for (size_t i = 0; i < gradient.size(); ++i) {
      const float x = input.data[i];
      const auto at = [&](float y) { return input.data[i] = y, loss(); };
      const double near = at(x + step) - at(x - step), far = at(x + 2 * step) - at(x - 2 * step);
      input.data[i] = x;
      EXPECT_NEAR(gradient[i], (8 * near - far) / (12 * step), 1e-6) << name << " " << i;
    }
  }
  void expect_all() {
    const Result r = gradients();
    expect("q", q, r.dq);
    expect("k", k, r.dk);
    expect("v", v, r.dv);
    if (!bias.data.empty()) expect("bias", bias, r.dbias);
    if (!sinks.data.empty()) expect("sinks", sinks, r.dsinks);
  }
};

TEST(FiniteDifference, Basic) { Problem().expect_all(); }

TEST(FiniteDifference, CausalWithEmptyRows) {
  Problem p(6, 4);
  p.options.causal = true;
  p.expect_all();
}

TEST(FiniteDifference, WindowAndScale) {
  Problem p;
  p.options.scale = -0.7;
  p.options.window_left = 2;
  p.options.window_right = 1;
  p.expect_all();
}

TEST(FiniteDifference, Softcap) {
  Problem p;
  p.options.softcap = 1.5;
  p.expect_all();
}

TEST(FiniteDifference, BiasOverEveryBroadcast) {
  for (int kind = 0; kind < 8; ++kind) {
    Problem p(3, 4);
    p.add_bias({kind & 1 ? 2 : 1, kind & 2 ? 4 : 1, kind & 4 ? 3 : 1, 4});
    p.expect_all();
  }
}

TEST(FiniteDifference, BiasThroughSoftcap) {
  Problem p;
  p.options.softcap = 2;
  p.add_bias({1, 4, 5, 6});
  p.expect_all();
}

TEST(FiniteDifference, Sinks) {
  Problem p(6, 4);
  p.options.causal = true;
  p.add_sinks();
  p.expect_all();
}

TEST(FiniteDifference, Dropout) {
  Problem p(10, 10);
  p.options.dropout_p = 0.4;
  p.options.dropout_seed = 11;
  p.options.dropout_offset = uint64_t{5} << 32 | 1;
  p.add_sinks();
  p.add_bias({1, 1, 10, 10});
  p.expect_all();
}

TEST(FiniteDifference, Alibi) {
  Problem p;
  p.slopes = Floats({2, 4}, {0.5f, 0.25f, 0, -0.5f, 1, 2, 0.125f, 0.5f});
  p.expect_all();
}

TEST(FiniteDifference, PackedWithUsedLengths) {
  Problem p;
  p.pack();
  const Ints<int32_t> cu_q({0, 3, 9}), cu_k({0, 5, 11}), used_q({3, 4}), used_k({4, 6});
  p.options.cu_seqlens_q = cu_q;
  p.options.cu_seqlens_k = cu_k;
  p.options.seqused_q = used_q;
  p.options.seqused_k = used_k;
  p.options.causal = true;
  p.add_sinks();
  p.expect_all();
}

TEST(FiniteDifference, AllTogether) {
  Problem p(7, 5);
  p.options = {.scale = 0.6, .causal = true, .window_left = 3, .softcap = 3, .dropout_p = 0.25};
  p.slopes = Floats({4}, {0.5f, 0.25f, 0.125f, 1});
  const Ints<int32_t> used_q({7, 5}), used_k({5, 3});
  p.options.seqused_q = used_q;
  p.options.seqused_k = used_k;
  p.add_bias({2, 1, 7, 5});
  p.add_sinks();
  p.expect_all();
}

}  // namespace
}  // namespace fa::reference
