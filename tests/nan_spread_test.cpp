// A NaN in a key spreads as far as docs/numerics.md says, and no farther.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fa/attention.hpp"
#include "floats.hpp"

namespace {

using fa::test::Floats;

constexpr int64_t rows = 2000, dim = 8, place = 1000, window = 10;

bool is_nan(const Floats& x, int64_t row) {
  return std::any_of(x.data.begin() + row * dim, x.data.begin() + (row + 1) * dim,
                     [](float number) { return std::isnan(number); });
}

/// Whether one of the rows [begin, end) sees a key of the block that holds `place`.
bool sees_block(int64_t begin, int64_t end, int64_t keys) {
  const int64_t block = place / keys * keys;
  return begin - window < block + keys && end - 1 + window >= block;
}

TEST(NanSpread, IsAsFarAsSaid) {
  Floats q({1, rows, 1, dim}, 0.5f), k({1, rows, 1, dim}, 0.25f), v({1, rows, 1, dim}, 1);
  Floats dout({1, rows, 1, dim}, 1), out({1, rows, 1, dim}), lse({1, 1, rows});
  Floats dq({1, rows, 1, dim}), dk({1, rows, 1, dim}), dv({1, rows, 1, dim});
  fa::Options options;
  options.window_left = options.window_right = window;
  fa::forward(q, k, v, out, lse, options);  // of clean numbers: gradients get theirs from K alone
  k.data[place * dim] = std::numeric_limits<float>::quiet_NaN();
  fa::backward(dout, q, k, v, out, lse, dq, dk, dv, options);
  fa::forward(q, k, v, out, lse, options);
  constexpr int64_t tile = 96;
  int beyond = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const bool sees = std::abs(i - place) <= window;
    const int64_t first = i / tile * tile;
    if (sees) {
      EXPECT_TRUE(is_nan(out, i) && is_nan(dq, i)) << i;
    }
    if (is_nan(out, i)) {
      EXPECT_TRUE(sees_block(first, first + tile, 128)) << i;
    }
    if (is_nan(dq, i)) {
      EXPECT_TRUE(sees_block(first, first + tile, 96)) << i;
    }
    beyond += !sees && is_nan(dq, i) ? 1 : 0;
  }
  EXPECT_GT(beyond, 0) << "else the page may say less";
}

}  // namespace
