// Rows that see no key, by mask or by a bias of -inf: no gradient, whatever dO holds there.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fa/attention.hpp"
#include "floats.hpp"

namespace {

using fa::test::Floats;

constexpr float infinity = std::numeric_limits<float>::infinity();

/// Three rows, two keys, one head: causal leaves row 0 no key; a bias may do the same.
struct EmptyRow {
  Floats q{{1, 3, 1, 8}, 0.5f}, k{{1, 2, 1, 8}, 0.25f}, v{{1, 2, 1, 8}, 1.0f};
  Floats out{{1, 3, 1, 8}}, lse{{1, 1, 3}}, dout{{1, 3, 1, 8}, 1.0f}, dlse{{1, 1, 3}, 0.0f};
  Floats dq{{1, 3, 1, 8}}, dk{{1, 2, 1, 8}}, dv{{1, 2, 1, 8}}, dsinks{{1}};
  Floats sinks{{1}, 0.5f}, bias{{1, 1, 3, 2}};
  fa::Options options;

  EmptyRow() { dlse.data[0] = 3; }
  void run() {
    fa::forward(q, k, v, out, lse, options);
    for (int d = 0; d < 8; ++d) dout.data[d] = std::nanf("");
    fa::BackwardArgs args{dout, q, k, v, out, lse, dq, dk, dv, dlse};
    if (options.sinks.given()) args.dsinks = dsinks;
    fa::backward(args, options);
  }
  void expect_no_gradient() const {
    for (int d = 0; d < 8; ++d) {
      EXPECT_EQ(out.data[d], 0);
      EXPECT_EQ(dq.data[d], 0);
    }
    for (const Floats* t : {&dq, &dk, &dv}) {
      for (const float x : t->data) EXPECT_TRUE(std::isfinite(x));
    }
    for (const float x : dv.data) EXPECT_GT(x, 0) << "the other rows have theirs";
  }
};

TEST(EmptyRow, ByMask) {
  EmptyRow t;
  t.options.causal = true;
  t.run();
  t.expect_no_gradient();
  EXPECT_EQ(t.lse.data[0], -infinity);
}

TEST(EmptyRow, WhateverVHolds) {
  EmptyRow t;
  t.options.causal = true;
  for (int d = 0; d < 8; ++d) t.v.data[8 + d] = std::nanf("");  // seen by row 2 alone
  t.run();
  for (int d = 0; d < 8; ++d) {
    EXPECT_EQ(t.out.data[d], 0);
    EXPECT_EQ(t.dq.data[d], 0);
    EXPECT_TRUE(std::isnan(t.out.data[16 + d]));
  }
}

TEST(EmptyRow, ByBias) {
  EmptyRow t;
  t.bias.data[0] = t.bias.data[1] = -infinity;
  t.options.bias = t.bias;
  t.run();
  t.expect_no_gradient();
  EXPECT_EQ(t.lse.data[0], -infinity);
}

TEST(EmptyRow, WithASinkOnlyTheSinkGetsDlse) {
  for (const bool by_bias : {false, true}) {
    EmptyRow t;
    t.options.sinks = t.sinks;
    t.options.causal = !by_bias;
    if (by_bias) {
      t.bias.data[0] = t.bias.data[1] = -infinity;
      t.options.bias = t.bias;
    }
    t.run();
    t.expect_no_gradient();
    EXPECT_EQ(t.lse.data[0], 0.5f);
    // Row 0 gives dLSE = 3; each other row -exp(sink - LSE) <dO, O>.
    double expected = 3;
    for (int i = 1; i < 3; ++i) {
      double delta = 0;
      for (int d = 0; d < 8; ++d) delta += t.out.data[8 * i + d];
      expected -= std::exp(0.5 - t.lse.data[i]) * delta;
    }
    EXPECT_NEAR(t.dsinks.data[0], expected, 1e-5);
  }
}

}  // namespace
