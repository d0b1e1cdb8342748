// Sums over many keys or rows: float32 within 4 eps of the sum of absolute values, however long.
// One key or row stands for millions by a stride of 0.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "fa/attention.hpp"
#include "floats.hpp"

namespace {

using fa::test::Floats;

constexpr int64_t dim = 8;
constexpr double eps = 0x1p-23;

/// [1, count, 1, dim], each row the one at `row`.
fa::View repeated(const float* row, int64_t count) {
  return fa::View(row, fa::float32, {1, count, 1, dim}, {0, 0, 0, 1});
}

/// The largest distance of numbers from `exact`, relative to `size`, in units of 4 eps.
double worst(const std::vector<float>& numbers, double exact, double size) {
  double most = 0;
  for (const float x : numbers) most = std::max(most, std::fabs(x - exact) / (4 * eps * size));
  return most;
}

struct Forward {
  double out, lse;  ///< error / (4 eps) of the size
};

/// `keys` keys with the same score and the same V, of numbers `value`.
Forward same_keys(int64_t rows, int64_t keys, float value, float score = 0) {
  const std::vector<float> q(dim, score / dim), ones(dim, 1.0f), v(dim, value);
  Floats out({1, rows, 1, dim}), lse({1, 1, rows});
  fa::Options options;
  options.scale = 1;
  fa::forward(repeated(q.data(), rows), repeated(ones.data(), keys), repeated(v.data(), keys), out,
              lse, options);
  const double exact = score + std::log(static_cast<double>(keys));
  return {worst(out.data, value, std::fabs(value)),
          worst(lse.data, exact, std::fabs(exact) + std::fabs(score) + 1)};
}

TEST(LongSums, AMeanOfTheSameValueIsThatValue) {
  for (const int64_t rows : {1, 3, 40, 128}) {
    for (const int64_t keys : {29, 128, 1000, 8192, 65'536, 262'144, 1'048'576, 16'777'216}) {
      if (rows * keys > int64_t{128} * 262'144) continue;
      const Forward error = same_keys(rows, keys, 0.1f);
      EXPECT_LE(error.out, 1) << rows << " rows, " << keys << " keys";
      EXPECT_LE(error.lse, 1) << rows << " rows, " << keys << " keys";
    }
  }
}

TEST(LongSums, WhateverTheValue) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> mantissa(1, 2);
  for (int n = 0; n < 400; ++n) {
    const auto keys = static_cast<int64_t>(std::exp2(3 + random() % 1000 * 0.01));
    const int64_t rows = n % 2 == 0 ? 1 : 40;  // read in place, or packed
    const float value = mantissa(random);
    EXPECT_LE(same_keys(rows, keys, value, n % 3).out, 1)
        << rows << " rows, " << keys << " keys, value " << value;
  }
}

/// Keys that weigh e^-3 and one that weighs 1: the sums are of numbers that are no powers of 2.
TEST(LongSums, OneKeyAboveTheOthers) {
  for (const int64_t rows : {1, 40}) {
    for (const int64_t keys : {100, 1000, 5000, 70'000}) {
      Floats k({1, keys, 1, dim}, 0.0f);
      std::fill_n(k.data.begin() + keys / 3 * dim, dim, 3.0f / dim);
      const std::vector<float> q(dim, 1.0f), v(dim, 0.7f);
      Floats out({1, rows, 1, dim}), lse({1, 1, rows});
      fa::Options options;
      options.scale = 1;
      fa::forward(repeated(q.data(), rows), k, repeated(v.data(), keys), out, lse, options);
      const double exact = 3 + std::log1p(static_cast<double>(keys - 1) * std::exp(-3.0));
      EXPECT_LE(worst(out.data, 0.7f, 0.7f), 1) << rows << " rows, " << keys << " keys";
      EXPECT_LE(worst(lse.data, exact, exact + 4), 1) << rows << " rows, " << keys << " keys";
    }
  }
}

/// Scores that grow by 1e-5 a key: the row's maximum is another in each block.
TEST(LongSums, ScoresThatKeepGrowing) {
  for (const int64_t rows : {1, 40}) {
    const int64_t keys = 1 << 19;
    const float slope = 1e-5f;
    const std::vector<float> zeros(dim, 0.0f), v(dim, 0.3f);
    Floats slopes({1}, slope), out({1, rows, 1, dim}), lse({1, 1, rows});
    fa::Options options;
    options.alibi_slopes = slopes;
    options.causal = true;
    fa::forward(repeated(zeros.data(), rows), repeated(zeros.data(), keys),
                repeated(v.data(), keys), out, lse, options);
    EXPECT_LE(worst(out.data, 0.3f, 0.3f), 1) << rows << " rows";
    double sum = 0;
    for (int64_t j = 0; j < keys; ++j) sum += std::exp(-static_cast<double>(slope) * j);
    const float last[] = {lse.data.back()};
    EXPECT_LE(worst({last, last + 1}, std::log(sum), std::log(sum) + slope * keys + 1), 1);
  }
}

TEST(LongSums, ValuesAroundOne) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(1, 0.01f);
  for (const int64_t rows : {1, 128}) {
    const int64_t keys = 262'144;
    Floats v({1, keys, 1, dim});
    for (float& x : v.data) x = normal(random);
    const std::vector<float> zeros(dim, 0.0f);
    Floats out({1, rows, 1, dim}), lse({1, 1, rows});
    fa::forward(repeated(zeros.data(), rows), repeated(zeros.data(), keys), v, out, lse, {});
    for (int64_t d = 0; d < dim; ++d) {
      double mean = 0;
      for (int64_t j = 0; j < keys; ++j) mean += v.data[j * dim + d] / static_cast<double>(keys);
      EXPECT_LE(worst({out.data[d], out.data[(rows - 1) * dim + d]}, mean, mean), 1)
          << rows << " rows, column " << d;
    }
  }
}

/// The gradients of `rows` rows of the same q and dO over `keys` keys of the same k and v.
struct Backward {
  Floats dq, dk, dv, dbias;
};
Backward same_rows(int64_t rows, int64_t keys, float q, float dout, float dlse) {
  const std::vector<float> q_row(dim, q), zeros(dim, 0.0f), ones(dim, 1.0f), dout_row(dim, dout);
  const Floats out({1, rows, 1, dim}), lse({1, 1, rows}, std::log(static_cast<float>(keys)));
  const Floats dlse_rows({1, 1, rows}, dlse), bias({1, 1, 1, keys});
  Backward g{Floats({1, rows, 1, dim}), Floats({1, keys, 1, dim}), Floats({1, keys, 1, dim}),
             Floats({1, 1, 1, keys})};
  fa::Options options;
  options.scale = 1;
  options.bias = bias;
  // V is 0, so O is; K's numbers cancel Q's in the score and not in dQ.
  std::vector<float> k_row(dim, 1.0f);
  for (int64_t d = 0; d < dim; d += 2) k_row[d] = -1.0f;
  fa::BackwardArgs args{repeated(dout_row.data(), rows),
                        repeated(q_row.data(), rows),
                        repeated(k_row.data(), keys),
                        repeated(zeros.data(), keys),
                        out,
                        lse,
                        g.dq,
                        g.dk,
                        g.dv,
                        dlse_rows,
                        g.dbias};
  fa::backward(args, options);
  return g;
}

TEST(LongSums, GradientsOfKeysOverManyRows) {
  for (const int64_t rows : {960, 8192, 65'536, 262'144, 1'048'576}) {
    const int64_t keys = 64;
    const Backward g = same_rows(rows, keys, 0.3f, 0.1f, 0.7f);
    const double weight = static_cast<double>(rows) / static_cast<double>(keys);
    EXPECT_LE(worst(g.dv.data, 0.1f * weight, 0.1 * weight), 1) << rows << " rows";
    EXPECT_LE(worst(g.dk.data, 0.7f * weight * 0.3f, 0.21 * weight), 1) << rows << " rows";
    EXPECT_LE(worst(g.dbias.data, 0.7f * weight, 0.7 * weight), 1) << rows << " rows";
  }
}

/// P is e^(s - LSE), which carries the rounding of LSE: up to 2^-24 of it.
TEST(LongSums, GradientsOfRowsOverManyKeys) {
  for (const int64_t rows : {1, 40}) {
    for (const int64_t keys : {1 << 10, 1 << 16, 1 << 18}) {
      const Backward g = same_rows(rows, keys, 0.3f, 0.1f, 0.7f);
      const double of_lse = 1 + std::log(static_cast<double>(keys));
      std::vector<float> sizes = g.dq.data;
      for (float& x : sizes) x = std::fabs(x);
      const double exact_p = std::exp(-static_cast<double>(std::log(static_cast<float>(keys))));
      const double exact = 0.7f * exact_p * static_cast<double>(keys);
      EXPECT_LE(worst(sizes, exact, exact * (1 + 0.05 * of_lse)), 1)
          << rows << " rows, " << keys << " keys";
    }
  }
}

/// Few rows are read in place in the forward pass and not in the backward pass, which add up a
/// score in other orders: what rounding takes from one is not what it takes from the other.
TEST(LongSums, ScoresOverALongHead) {
  constexpr int64_t rows = 9, keys = 21;
  for (const int64_t width : {96, 184, 256, 512, 576}) {
    const int64_t width_v = std::min<int64_t>(width, 512);
    for (const float x : {1.0f / 3, 0.7f, 0.9f}) {
      const Floats q({1, rows, 1, width}, x), k({1, keys, 1, width}, x);
      const Floats v({1, keys, 1, width_v}, 1.0f), dout({1, rows, 1, width_v}, 1.0f);
      Floats out({1, rows, 1, width_v}), lse({1, 1, rows});
      fa::forward(q, k, v, out, lse, {});
      Floats dq({1, rows, 1, width}), dk({1, keys, 1, width}), dv({1, keys, 1, width_v});
      fa::BackwardArgs args{dout, q, k, v, out, lse, dq, dk, dv, {}, {}, {}};
      fa::backward(args, {});
      const double exact = static_cast<double>(rows) / keys;
      const double score = x * x * std::sqrt(static_cast<double>(width));
      const double exact_lse = score + std::log(static_cast<double>(keys));
      EXPECT_LE(worst(dv.data, exact, exact * (1 + score + exact_lse)), 1)
          << "head_dim " << width << ", q and k " << x;
    }
  }
}

/// The threads decide how many rows a tile has, and its rows decide which keys it sees. The bits of
/// a row depend on neither.
TEST(LongSums, TheSameBitsInAnyTile) {
  std::mt19937 random(3);
  constexpr int64_t rows = 1600, keys = 3000, width = 256;  // more than CpuTuning::long_head_bytes
  const Floats q = fa::test::normal({1, rows, 1, width}, random);
  const Floats k = fa::test::normal({1, keys, 1, width}, random);
  const Floats v = fa::test::normal({1, keys, 1, width}, random);
  for (const int64_t window : {int64_t{-1}, int64_t{700}}) {
    Floats out[2], lse[2];
    for (int n = 0; n < 2; ++n) {
      out[n] = Floats({1, rows, 1, width});
      lse[n] = Floats({1, 1, rows});
      fa::Options options;
      options.causal = true;
      options.window_left = window;
      options.num_threads = n == 0 ? 1 : 2;
      fa::forward(q, k, v, out[n], lse[n], options);
    }
    EXPECT_EQ(out[0].data, out[1].data);
    EXPECT_EQ(lse[0].data, lse[1].data);
  }
}

}  // namespace
