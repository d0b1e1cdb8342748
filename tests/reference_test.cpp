// The reference against numbers worked out by hand and published vectors.
#include "reference/reference.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "floats.hpp"
#include "reference/number.hpp"
#include "reference/philox.hpp"

namespace fa::reference {
namespace {

using test::Floats;
using test::Ints;

constexpr double infinity = std::numeric_limits<double>::infinity();

// Known answers of Random123's philox4x32 with 7 rounds.
TEST(Philox, KnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32_7({0, 0, 0, 0}, {0, 0}),
            (Words{0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48}));
  EXPECT_EQ(philox4x32_7({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (Words{0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662}));
  EXPECT_EQ(
      philox4x32_7({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      (Words{0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a}));
}

TEST(Philox, KeepsFollowTheBlocks) {
  // Elements (i, j) with the same i and j but for bit 3 share a counter: words 0, 1, 2, 3.
  const uint64_t seed = 0x123456789abcdef0, offset = 0x0fedcba987654321;
  const auto words =
      philox4x32_7({11, 5, (2 * 8 + 3) ^ 0x0fedcba9, 0x87654321}, {0x9abcdef0, 0x12345678});
  for (int64_t word = 0; word < 4; ++word) {
    const int64_t i = 19 + word / 2 * 8, j = 5 + word % 2 * 8;
    const double at = words[word] / 0x1p32;
    EXPECT_TRUE(keeps(at, seed, offset, 2, 3, 8, i, j));
    EXPECT_FALSE(keeps(at + 0x1p-32, seed, offset, 2, 3, 8, i, j));
  }
}

TEST(Number, Bfloat16) {
  uint16_t bits = 0;
  const auto stored = [&](double x) { return store(bfloat16, &bits, x), bits; };
  EXPECT_EQ(stored(1.0), 0x3f80);
  EXPECT_EQ(stored(1.0 + 0x1p-8), 0x3f80) << "a tie goes to the even neighbour";
  EXPECT_EQ(stored(1.0 + 0x3p-8), 0x3f82);
  EXPECT_EQ(stored(1.0 + 0x1.01p-8), 0x3f81);
  EXPECT_EQ(stored(-infinity), 0xff80);
  EXPECT_EQ(stored(3.4e38), 0x7f80) << "too large becomes infinite";
  EXPECT_TRUE(std::isnan(load(bfloat16, (stored(NAN), &bits))));
}

TEST(Number, Float16) {
  uint16_t bits = 0;
  const auto stored = [&](double x) { return store(float16, &bits, x), bits; };
  EXPECT_EQ(stored(1.0), 0x3c00);
  EXPECT_EQ(stored(-2.0), 0xc000);
  EXPECT_EQ(stored(65504.0), 0x7bff);
  EXPECT_EQ(stored(65519.9), 0x7bff);
  EXPECT_EQ(stored(65520.0), 0x7c00);
  EXPECT_EQ(stored(0x1p-24), 0x0001);
  EXPECT_EQ(stored(0x1p-25), 0x0000) << "a tie goes to the even neighbour";
  EXPECT_EQ(stored(0x3p-25), 0x0002);
  EXPECT_EQ(stored(0x1p-14), 0x0400);
  EXPECT_EQ(stored(1.0 + 0x1p-11), 0x3c00);
  EXPECT_EQ(stored(1.0 + 0x3p-11), 0x3c02);
  EXPECT_TRUE(std::isnan(load(float16, (stored(NAN), &bits))));
}

TEST(Number, EveryFloat16SurvivesTheRoundTrip) {
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    const double x = load(float16, &bits);
    if (std::isnan(x)) continue;
    EXPECT_EQ(rounded(float16, static_cast<float>(x)), x);
    uint16_t again = 0;
    store(float16, &again, x);
    EXPECT_EQ(again, bits);
  }
}

/// One head, D = Dv = 8: queries and keys have one number that is not zero, so a score is a
/// product; values are the key's number.
struct Tiny {
  Floats q, k, v, dout;
  Options options{.scale = 1.0};

  Tiny(const std::vector<float>& queries, const std::vector<float>& keys,
       const std::vector<float>& values)
      : q(first(queries)), k(first(keys)), v(first(values)), dout(q.shape) {}

  static Floats first(const std::vector<float>& numbers) {
    Floats t({1, static_cast<int64_t>(numbers.size()), 1, 8});
    for (size_t i = 0; i < numbers.size(); ++i) t.data[i * 8] = numbers[i];
    return t;
  }
  Result forward() const { return reference::forward({q, k, v, {}, {}}, options, Rounding::exact); }
  Result backward(const Tensor& dlse = {}, const Tensor& dbias = {},
                  const Tensor& dsinks = {}) const {
    BackwardArgs args{dout, q, k, v, {}, {}, {}, {}, {}, dlse, dbias, dsinks};
    return reference::backward(args, options, Rounding::exact);
  }
};

const float log_2 = std::log(2.0f);
const float log_3 = std::log(3.0f);

TEST(Reference, TwoKeys) {
  // Scores log 1 and log 3: P = 1/4, 3/4.
  const Result r = Tiny({1}, {0, log_3}, {8, 4}).forward();
  EXPECT_NEAR(r.out[0], 0.25 * 8 + 0.75 * 4, 1e-6);
  EXPECT_NEAR(r.lse[0], std::log(4.0), 1e-6);
}

TEST(Reference, CausalIsAlignedToTheBottomRight) {
  Tiny t({0, 0}, {0, 0, 0}, {1, 2, 6});
  t.options.causal = true;
  const Result r = t.forward();
  EXPECT_DOUBLE_EQ(r.out[0], 1.5) << "the first of two rows sees two of three keys";
  EXPECT_DOUBLE_EQ(r.out[8], 3);
}

TEST(Reference, MoreRowsThanKeysLeaveRowsEmpty) {
  Tiny t({0, 0, 0}, {0}, {5});
  t.options.causal = true;
  t.dout = Floats({1, 3, 1, 8}, NAN);
  for (int d = 0; d < 8; ++d) t.dout.data[16 + d] = 1;
  const Result r = t.backward();
  EXPECT_EQ(r.lse, (std::vector<double>{-infinity, -infinity, 0}));
  EXPECT_EQ(r.out[0], 0);
  EXPECT_EQ(r.out[16], 5);
  EXPECT_EQ(r.dv[0], 1) << "an empty row's dO, here NaN, reaches nothing";
  EXPECT_EQ(r.dq[0], 0);
}

TEST(Reference, Window) {
  Tiny t({0, 0, 0}, {0, 0, 0, 0}, {1, 2, 4, 8});
  t.options.window_left = 1;
  t.options.window_right = 0;
  const Result r = t.forward();
  EXPECT_DOUBLE_EQ(r.out[0], 1.5) << "row 0 stands at key 1 and sees keys 0 and 1";
  EXPECT_DOUBLE_EQ(r.out[16], 6);
}

TEST(Reference, Softcap) {
  Tiny t({1}, {0, 3}, {0, 1});
  t.options.softcap = 2;
  const double s = 2 * std::tanh(1.5);
  EXPECT_NEAR(t.forward().lse[0], std::log(1 + std::exp(s)), 1e-12);
}

TEST(Reference, AlibiFallsWithTheDistance) {
  Tiny t({0}, {0, 0, 0}, {0, 0, 1});
  const Floats slopes({1}, log_2);
  t.options.alibi_slopes = slopes;
  EXPECT_NEAR(t.forward().lse[0], std::log(1 + 0.5 + 0.25), 1e-6);
  EXPECT_NEAR(t.forward().out[0], 1 / 1.75, 1e-6);
}

TEST(Reference, BiasMasksAndGetsItsGradient) {
  Tiny t({0}, {0, 0, 0}, {8, 4, 1});
  const Floats bias({1, 1, 1, 3}, {0, log_3, -INFINITY});
  t.options.bias = bias;
  t.dout.data[0] = 1;
  const Result r = t.backward({}, bias);
  EXPECT_NEAR(r.out[0], 5, 1e-6);
  EXPECT_NEAR(r.dbias[0], 0.25 * (8 - 5), 1e-6);
  EXPECT_NEAR(r.dbias[1], 0.75 * (4 - 5), 1e-6);
  EXPECT_EQ(r.dbias[2], 0);
}

TEST(Reference, SinkIsOnlyInTheDenominator) {
  Tiny t({0}, {0}, {6});
  const Floats sinks({1}, log_2);
  t.options.sinks = sinks;
  t.dout.data[0] = 1;
  const Result r = t.backward({}, {}, sinks);
  EXPECT_NEAR(r.out[0], 2, 1e-6);
  EXPECT_NEAR(r.lse[0], std::log(3.0), 1e-6);
  EXPECT_NEAR(r.dsinks[0], -2.0 / 3 * 2, 1e-6);
}

TEST(Reference, RowWithOnlyASink) {
  Tiny t({0, 0}, {0}, {6});
  t.options.causal = true;
  const Floats sinks({1}, 0.5f);
  const Floats dlse({1, 1, 2}, {3, 0});
  t.options.sinks = sinks;
  const Result r = t.backward(dlse, {}, sinks);
  EXPECT_EQ(r.lse[0], 0.5);
  EXPECT_EQ(r.out[0], 0);
  EXPECT_EQ(r.dsinks[0], 3);
  EXPECT_EQ(r.dq[0], 0);
}

TEST(Reference, DropoutScalesWhatItKeeps) {
  Tiny t({0}, std::vector<float>(64, 0), std::vector<float>(64, 1));
  t.options.dropout_p = 0.25;
  t.options.dropout_seed = 7;
  int kept = 0;
  for (int64_t j = 0; j < 64; ++j) kept += keeps(0.25, 7, 0, 0, 0, 1, 0, j) ? 1 : 0;
  const Result r = t.forward();
  EXPECT_GT(kept, 32);
  EXPECT_LT(kept, 64);
  EXPECT_NEAR(r.out[0], kept / 64.0 / 0.75, 1e-12);
  EXPECT_NEAR(r.lse[0], std::log(64.0), 1e-12) << "LSE is that before dropout";

  const Ints<int64_t> state({7, 0});
  Tiny on_device = t;
  on_device.options.dropout_seed = 99;
  on_device.options.dropout_state = state;
  EXPECT_EQ(on_device.forward().out, r.out);
}

TEST(Reference, PackedRowsBeyondTheLastSequence) {
  const Floats q({4, 1, 8}), k({3, 1, 8}), v({3, 1, 8}, 2.0f);
  const Ints<int32_t> cu_q({0, 1, 3}), cu_k({0, 2, 2}), used_q({1, 1});
  Options o{.scale = 1.0};
  o.cu_seqlens_q = cu_q;
  o.cu_seqlens_k = cu_k;
  o.seqused_q = used_q;
  const Result r = forward({q, k, v, {}, {}}, o, Rounding::exact);
  EXPECT_EQ(r.lse, (std::vector<double>{std::log(2.0), -infinity, -infinity, -infinity}));
  EXPECT_EQ(r.out[0], 2);
  EXPECT_EQ(r.out[8], 0) << "the second sequence has no key";
  EXPECT_EQ(r.out[24], 0) << "no sequence reaches the last row";
}

/// The same tensor in bfloat16.
struct Bfloat16 {
  std::vector<uint16_t> data;
  int64_t shape[4];

  explicit Bfloat16(const Floats& t) : data(t.data.size()) {
    std::copy_n(t.shape.begin(), 4, shape);
    for (size_t i = 0; i < data.size(); ++i) store(bfloat16, &data[i], t.data[i]);
  }
  Tensor tensor() { return {data.data(), {}, 4, bfloat16, shape, nullptr, 0}; }
};

TEST(Reference, PlainRoundsEveryTensorToTheDtype) {
  // Scores 1/3 of 1 + 2^-7 and 0: S, P and O are each rounded to 8 bits, LSE is not.
  const Tiny t({1 + 0x1p-7f}, {1.0f / 3, 0}, {1, 0});
  Bfloat16 q(t.q), k(t.k), v(t.v);
  const ForwardArgs args{q.tensor(), k.tensor(), v.tensor(), {}, {}};
  const float score = rounded(bfloat16, (1 + 0x1p-7f) * rounded(bfloat16, 1.0f / 3));
  const float sum = 1 + std::exp(-score);
  const Result plain = forward(args, t.options, Rounding::plain);
  EXPECT_EQ(plain.out[0], rounded(bfloat16, 1 / sum));
  EXPECT_EQ(plain.lse[0], score + std::log(sum));
  EXPECT_TRUE(plain.out_abs.empty());
  const Result exact = forward(args, t.options, Rounding::exact);
  const double s = (1 + 0x1p-7) * rounded(bfloat16, 1.0f / 3);
  EXPECT_DOUBLE_EQ(exact.lse[0], std::log(std::exp(s) + 1));
  EXPECT_DOUBLE_EQ(exact.out[0], std::exp(s) / (std::exp(s) + 1));
}

TEST(Reference, SpotChecksAreRowsOfTheWhole) {
  std::mt19937 random(1);
  const Floats q = test::normal({2, 70, 4, 8}, random), k = test::normal({2, 9, 2, 8}, random),
               v = test::normal({2, 9, 2, 16}, random), dout = test::normal({2, 70, 4, 16}, random);
  const Ints<int32_t> used_q({70, 66}), used_k({9, 6});
  Options o{.causal = true, .window_left = 5, .softcap = 3, .dropout_p = 0.1};
  o.seqused_q = used_q;
  o.seqused_k = used_k;
  const ForwardArgs f{q, k, v, {}, {}};
  const BackwardArgs b{dout, q, k, v, {}, {}, {}, {}, {}};
  const auto part = [](const std::vector<double>& all, int64_t row, int64_t width) {
    return std::vector<double>(all.begin() + row * width, all.begin() + (row + 1) * width);
  };
  for (const Rounding rounding : {Rounding::exact, Rounding::plain}) {
    const Result whole = backward(b, o, rounding);
    const auto expect_part = [&](const Part& ours, const std::vector<double>& values,
                                 const std::vector<double>& abs, int64_t row, int64_t width) {
      EXPECT_EQ(ours.values, part(values, row, width));
      EXPECT_EQ(ours.abs, abs.empty() ? abs : part(abs, row, width));
    };
    for (const int64_t i : {0, 64, 65, 66, 69}) {
      const Row row = forward_row(f, o, 1, 3, i, rounding);
      expect_part(row.out, whole.out, whole.out_abs, (70 + i) * 4 + 3, 16);
      expect_part(row.lse, whole.lse, whole.lse_abs, (4 + 3) * 70 + i, 1);
      expect_part(dq_row(b, o, 1, 3, i, rounding), whole.dq, whole.dq_abs, (70 + i) * 4 + 3, 8);
    }
    const std::vector<int64_t> keys{5, 7, 0};
    const auto rows = dkv_rows(b, o, 1, 1, keys, rounding);
    for (size_t n = 0; n < keys.size(); ++n) {
      expect_part(rows[n].dk, whole.dk, whole.dk_abs, (9 + keys[n]) * 2 + 1, 8);
      expect_part(rows[n].dv, whole.dv, whole.dv_abs, (9 + keys[n]) * 2 + 1, 16);
    }
  }
}

}  // namespace
}  // namespace fa::reference
