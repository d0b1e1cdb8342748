// Relations that must hold between two calls, whatever the numbers.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "fa/attention.hpp"
#include "floats.hpp"

namespace fa {
namespace {

using test::Floats;

struct Inputs {
  std::mt19937 random{5};
  Floats q, k, v;

  Inputs(int64_t rows, int64_t keys, int64_t heads_q, int64_t heads_k, int64_t dim)
      : q(test::normal({2, rows, heads_q, dim}, random)),
        k(test::normal({2, keys, heads_k, dim}, random)),
        v(test::normal({2, keys, heads_k, dim}, random)) {}
};

struct Results {
  Floats out, lse;

  Results(const Floats& q, const Floats& k, const Floats& v, const Options& options = {})
      : out(q.shape, NAN), lse({q.shape[0], q.shape[2], q.shape[1]}, NAN) {
    forward(q, k, v, out, lse, options);
  }
};

/// Rows [begin, end) of [B, S, H, D].
Floats rows(const Floats& t, int64_t begin, int64_t end) {
  const int64_t width = t.shape[2] * t.shape[3];
  Floats part({t.shape[0], end - begin, t.shape[2], t.shape[3]});
  for (int64_t b = 0; b < t.shape[0]; ++b) {
    std::copy_n(t.data.begin() + (b * t.shape[1] + begin) * width, (end - begin) * width,
                part.data.begin() + b * (end - begin) * width);
  }
  return part;
}

void expect_near(const Floats& a, const Floats& b, float tolerance) {
  ASSERT_EQ(a.data.size(), b.data.size());
  for (size_t i = 0; i < a.data.size(); ++i) {
    if (std::isinf(b.data[i])) {
      EXPECT_EQ(a.data[i], b.data[i]) << i;
    } else {
      EXPECT_NEAR(a.data[i], b.data[i], tolerance) << i;
    }
  }
}

TEST(Metamorphic, MergeOfSplitKeysIsTheWhole) {
  const Inputs in(100, 300, 4, 2, 32);
  for (const Options& options : {Options{}, Options{.causal = true}, Options{.softcap = 2}}) {
    const Results whole(in.q, in.k, in.v, options);
    for (const int64_t split : {0, 1, 128, 299, 300}) {
      // Only the last keys meet the diagonal: the rows see all keys that are more than their
      // number away from the end.
      if (options.causal && split > 200) continue;
      Options before = options;
      before.causal = false;
      const Results a(in.q, rows(in.k, 0, split), rows(in.v, 0, split), before);
      const Results b(in.q, rows(in.k, split, 300), rows(in.v, split, 300), options);
      Floats out(in.q.shape, NAN), lse(whole.lse.shape, NAN);
      merge(a.out, a.lse, b.out, b.lse, out, lse);
      expect_near(out, whole.out, 2e-6f);
      expect_near(lse, whole.lse, 4e-6f);
    }
  }
}

TEST(Metamorphic, MergeOfEmptyRowsIsEmpty) {
  const Inputs in(5, 0, 2, 2, 8);
  const Results none(in.q, in.k, in.v);
  Floats out(in.q.shape, NAN), lse(none.lse.shape, NAN);
  merge(none.out, none.lse, none.out, none.lse, out, lse);
  for (const float x : out.data) EXPECT_EQ(x, 0);
  for (const float x : lse.data) EXPECT_EQ(x, -INFINITY);
}

// A part without keys is absent whatever it holds; flash_attn 2 writes +inf for its LSE.
TEST(Metamorphic, MergePassesOverAPartWithoutKeys) {
  const Inputs in(5, 7, 2, 2, 72);
  const Results part(in.q, in.k, in.v);
  for (const float absent : {-INFINITY, INFINITY}) {
    const Floats nothing(part.lse.shape, absent);
    for (const float held : {NAN, INFINITY, -INFINITY, 1e30f}) {
      const Floats held_out(in.q.shape, held);
      Floats out(in.q.shape, NAN), lse(part.lse.shape, NAN);
      merge(part.out, part.lse, held_out, nothing, out, lse);
      EXPECT_EQ(out.data, part.out.data);
      EXPECT_EQ(lse.data, part.lse.data);
      merge(held_out, nothing, part.out, part.lse, out, lse);
      EXPECT_EQ(out.data, part.out.data);
      EXPECT_EQ(lse.data, part.lse.data);
      merge(held_out, nothing, held_out, nothing, out, lse);
      EXPECT_EQ(out.data, Floats(in.q.shape, 0).data);
      EXPECT_EQ(lse.data, Floats(part.lse.shape, -INFINITY).data);
    }
  }
}

TEST(Metamorphic, MergeKeepsANanOnEitherSide) {
  const Floats out_part({1, 1, 1, 8}), none({1, 1, 1}, -INFINITY), nan({1, 1, 1}, NAN);
  Floats out({1, 1, 1, 8}), lse({1, 1, 1});
  for (const auto& [a, b] : {std::pair(&none, &nan), std::pair(&nan, &none)}) {
    merge(out_part, *a, out_part, *b, out, lse);
    EXPECT_TRUE(std::isnan(lse.data[0]));
    EXPECT_TRUE(std::isnan(out.data[0]));
  }
}

// dP = 8e28 times a key of 1e12 is beyond float32 before the scale of 1e-6 takes it back.
TEST(Metamorphic, HugeKeysUnderASmallScaleHaveAFiniteGradient) {
  const Floats q({1, 1, 1, 8}, 1e-7f), dout({1, 1, 1, 8}, 1e14f);
  Floats k({1, 2, 1, 8}, 1e12f), v({1, 2, 1, 8}, 1e14f);
  for (int d = 8; d < 16; ++d) k.data[d] = -k.data[d], v.data[d] = -v.data[d];
  Options options;
  options.scale = 1e-6;
  Floats out(q.shape), lse({1, 1, 1}), dq(q.shape), dk(k.shape), dv(v.shape);
  forward(q, k, v, out, lse, options);
  backward(dout, q, k, v, out, lse, dq, dk, dv, options);
  const double score = 1e-6 * 8 * 1e-7 * 1e12, p = 1 / (1 + std::exp(-2 * score));
  const double exact = 1e-6 * p * (1 - p) * 2 * (8 * 1e14 * 1e14) * 2 * 1e12;
  for (const float x : dq.data) EXPECT_NEAR(x / exact, 1, 1e-5);
}

TEST(Metamorphic, NanInAQueryStaysInItsRow) {
  const Inputs in(130, 200, 2, 2, 16);
  const int64_t row = 97, head = 1;
  Floats q = in.q;
  q.data[(row * 2 + head) * 16 + 3] = NAN;
  const Results clean(in.q, in.k, in.v), bad(q, in.k, in.v);
  for (size_t i = 0; i < clean.out.data.size(); ++i) {
    if (static_cast<int64_t>(i) / 16 == row * 2 + head) {
      EXPECT_TRUE(std::isnan(bad.out.data[i])) << i;
    } else {
      EXPECT_EQ(bad.out.data[i], clean.out.data[i]) << i;
    }
  }
  EXPECT_TRUE(std::isnan(bad.lse.data[head * 130 + row]));
}

TEST(Metamorphic, TheOrderOfKeysDoesNotMatter) {
  Inputs in(70, 150, 2, 1, 24);
  std::vector<int64_t> order(150);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), in.random);
  Floats k = in.k, v = in.v;
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t j = 0; j < 150; ++j) {
      const int64_t from = (b * 150 + order[j]) * 24, to = (b * 150 + j) * 24;
      std::copy_n(in.k.data.begin() + from, 24, k.data.begin() + to);
      std::copy_n(in.v.data.begin() + from, 24, v.data.begin() + to);
    }
  }
  const Results a(in.q, in.k, in.v), b(in.q, k, v);
  expect_near(b.out, a.out, 2e-6f);
  expect_near(b.lse, a.lse, 4e-6f);
}

TEST(Metamorphic, AGroupOfHeadsIsRepeatedKeys) {
  const Inputs in(40, 60, 6, 2, 16);
  Floats k({2, 60, 6, 16}), v(k.shape);
  for (int64_t n = 0; n < 2 * 60 * 6; ++n) {
    const int64_t from = (n / 6 * 2 + n % 6 / 3) * 16;
    std::copy_n(in.k.data.begin() + from, 16, k.data.begin() + n * 16);
    std::copy_n(in.v.data.begin() + from, 16, v.data.begin() + n * 16);
  }
  const Results grouped(in.q, in.k, in.v), repeated(in.q, k, v);
  expect_near(grouped.out, repeated.out, 2e-6f);
  expect_near(grouped.lse, repeated.lse, 4e-6f);
}

TEST(Metamorphic, AConstantBiasMovesOnlyLse) {
  const Inputs in(30, 140, 2, 2, 8);
  const Floats bias({1, 1, 1, 140}, 3.0f);
  Options options;
  options.bias = bias;
  const Results plain(in.q, in.k, in.v);
  Results shifted(in.q, in.k, in.v, options);
  for (float& x : shifted.lse.data) x -= 3.0f;
  expect_near(shifted.out, plain.out, 2e-6f);
  expect_near(shifted.lse, plain.lse, 4e-6f);
}

/// The float32 numbers as bfloat16, which they are cut to as well.
class Bfloats {
 public:
  explicit Bfloats(Floats& t) : shape_(t.shape), bits_(t.data.size()) {
    for (size_t i = 0; i < bits_.size(); ++i) {
      bits_[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(t.data[i]) >> 16);
      t.data[i] = std::bit_cast<float>(uint32_t{bits_[i]} << 16);
    }
  }
  View view() const { return {bits_.data(), bfloat16, shape_.data(), nullptr, 4}; }
  Floats floats() const {
    Floats t(shape_);
    for (size_t i = 0; i < bits_.size(); ++i) {
      t.data[i] = std::bit_cast<float>(uint32_t{bits_[i]} << 16);
    }
    return t;
  }

 private:
  std::vector<int64_t> shape_;
  std::vector<uint16_t> bits_;
};

/// Scores of 1e2 to 1e30, of which the largest takes all of a row: as in float32, decoding too.
TEST(Metamorphic, HugeScoresPickTheLargestInBfloat16) {
  for (const int64_t rows : {1, 64}) {
    for (const float size : {10.0f, 1e3f, 3e4f, 1e8f, 1e15f}) {
      Inputs in(rows, 256, 2, 2, 128);
      for (Floats* t : {&in.q, &in.k}) {
        for (float& x : t->data) x *= size;
      }
      const Bfloats q(in.q), k(in.k), v(in.v);
      const Results exact(in.q, in.k, in.v);
      Floats zeros(exact.out.shape), lse(exact.lse.shape, NAN);
      const Bfloats out(zeros);
      forward(q.view(), k.view(), v.view(), out.view(), lse);
      SCOPED_TRACE(size);
      expect_near(out.floats(), exact.out, size > 100 ? 0.0f : 0.05f);
      for (size_t i = 0; i < lse.data.size(); ++i) {
        EXPECT_NEAR(lse.data[i] / exact.lse.data[i], 1, 1e-5) << i;
      }
    }
  }
}

}  // namespace
}  // namespace fa
