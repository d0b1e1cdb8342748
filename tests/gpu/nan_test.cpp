// A NaN in an input shows in what depends on it, with the keys split or not, and nowhere else.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// Attention of one head of 64 columns; a NaN is put where the indices say (-1: nowhere).
struct Attention {
  GpuTensor q, k, v, out, lse;

  Attention(int64_t rows, int64_t keys, int64_t in_q, int64_t in_k, int64_t in_v)
      : q({1, rows, 1, 64}, bfloat16),
        k({1, keys, 1, 64}, bfloat16),
        v({1, keys, 1, 64}, bfloat16),
        out({1, rows, 1, 64}, bfloat16),
        lse({1, 1, rows}, float32) {
    const auto fill = [](const GpuTensor& x, int64_t at) {
      x.set([at](int64_t n) { return n == at ? nan : std::sin(static_cast<double>(n)); });
    };
    fill(q, in_q);
    fill(k, in_k);
    fill(v, in_v);
    forward(q, k, v, out, lse);
    gpu().synchronize(nullptr);
  }
};

int64_t count_nan(const std::vector<double>& x) {
  return std::count_if(x.begin(), x.end(), [](double y) { return std::isnan(y); });
}

TEST(Nan, OfAQueryShowsInItsRowAlone) {
  const Attention a(40, 100, 7 * 64 + 5, -1, -1);
  const std::vector<double> out = a.out.values(), lse = a.lse.values();
  EXPECT_EQ(count_nan(lse), 1);
  EXPECT_TRUE(std::isnan(lse[7]));
  EXPECT_EQ(count_nan(out), 64);
  EXPECT_TRUE(std::isnan(out[7 * 64]));
}

TEST(Nan, OfAQueryShowsWhereKeysAreSplit) {
  const Attention a(1, 8000, 5, -1, -1);
  EXPECT_EQ(count_nan(a.lse.values()), 1);
  EXPECT_EQ(count_nan(a.out.values()), 64);
}

TEST(Nan, OfAKeyShowsInAllRowsThatSeeIt) {
  for (const int64_t keys : {100, 8000}) {
    const Attention a(3, keys, -1, 50 * 64 + 1, -1);
    EXPECT_EQ(count_nan(a.lse.values()), 3) << keys;
    EXPECT_EQ(count_nan(a.out.values()), 3 * 64) << keys;
  }
}

TEST(Nan, OfAValueShowsInItsColumn) {
  for (const int64_t keys : {100, 8000}) {
    const Attention a(3, keys, -1, -1, 50 * 64 + 9);
    EXPECT_EQ(count_nan(a.lse.values()), 0) << keys;
    EXPECT_EQ(count_nan(a.out.values()), 3) << keys;
  }
}

}  // namespace
}  // namespace fa::test
