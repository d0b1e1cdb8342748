// src/kernels/common on the host: what device code will share.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/common/float16.h"
#include "kernels/common/mask.h"
#include "kernels/common/philox.h"

namespace {

TEST(Mask, KeyRangeIsTheInequalityOfTheDefinition) {
  for (int q_len = 0; q_len <= 5; ++q_len) {
    for (int k_len = 0; k_len <= 6; ++k_len) {
      for (int left = -1; left <= 7; ++left) {
        for (int right = -1; right <= 7; ++right) {
          for (int i = 0; i < q_len; ++i) {
            const auto range = fa::mask::key_range(i, q_len, k_len, left, right);
            for (int j = 0; j < k_len; ++j) {
              const int ahead = j - (i + k_len - q_len);
              const bool seen = (left < 0 || ahead >= -left) && (right < 0 || ahead <= right);
              ASSERT_EQ(seen, j >= range.begin && j < range.end)
                  << "i " << i << " j " << j << " q_len " << q_len << " k_len " << k_len << " left "
                  << left << " right " << right;
            }
          }
        }
      }
    }
  }
}

TEST(Mask, RowRangeIsKeyRangeFromTheOtherSide) {
  for (int q_len = 0; q_len <= 5; ++q_len) {
    for (int k_len = 0; k_len <= 6; ++k_len) {
      for (int left = -1; left <= 7; ++left) {
        for (int right = -1; right <= 7; ++right) {
          for (int j = 0; j < k_len; ++j) {
            const auto rows = fa::mask::row_range(j, q_len, k_len, left, right);
            for (int i = 0; i < q_len; ++i) {
              const auto keys = fa::mask::key_range(i, q_len, k_len, left, right);
              ASSERT_EQ(j >= keys.begin && j < keys.end, i >= rows.begin && i < rows.end)
                  << "i " << i << " j " << j << " q_len " << q_len << " k_len " << k_len << " left "
                  << left << " right " << right;
            }
          }
        }
      }
    }
  }
}

TEST(Mask, EndsNeverFallAsRowsGrow) {
  for (int k_len = 0; k_len <= 6; ++k_len) {
    for (int i = 0; i < 8; ++i) {
      const auto a = fa::mask::key_range(i, 9, k_len, 2, 1);
      const auto b = fa::mask::key_range(i + 1, 9, k_len, 2, 1);
      EXPECT_LE(a.begin, b.begin);
      EXPECT_LE(a.end, b.end);
    }
  }
}

TEST(Philox, BlockOfFourSharesACounterAndNoTwoElementsAWord) {
  for (unsigned i = 0; i < 40; ++i) {
    EXPECT_EQ(fa::philox::block_index(i), fa::philox::block_index(i ^ 8u));
    for (unsigned other = 0; other < 40; ++other) {
      const bool same = fa::philox::block_index(i) == fa::philox::block_index(other);
      EXPECT_EQ(same, other == i || other == (i ^ 8u));
    }
    EXPECT_NE(fa::philox::word_index(i, 0), fa::philox::word_index(i ^ 8u, 0));
    EXPECT_NE(fa::philox::word_index(0, i), fa::philox::word_index(0, i ^ 8u));
  }
}

TEST(Philox, ThresholdIsTheFloorInDouble) {
  EXPECT_EQ(fa::philox::threshold(0.0), 0u);
  EXPECT_EQ(fa::philox::threshold(0.5), 0x80000000u);
  EXPECT_EQ(fa::philox::threshold(0.1), 429496729u);
  EXPECT_EQ(fa::philox::threshold(std::nextafter(1.0, 0.0)), 0xFFFFFFFFu);
}

TEST(Float16, WidensEveryNumber) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const auto bits = static_cast<uint16_t>(h);
    const float widened = std::bit_cast<float>(fa::narrow::f16_to_f32_bits(bits));
    const int exponent = h >> 10 & 31;
    const double mantissa = h & 0x3FF;
    const double sign = (h & 0x8000) != 0 ? -1 : 1;
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(widened), mantissa != 0);
      EXPECT_EQ(std::isinf(widened), mantissa == 0);
      EXPECT_EQ(std::signbit(widened), sign < 0);
      continue;
    }
    const double expected = exponent == 0 ? sign * std::ldexp(mantissa, -24)
                                          : sign * std::ldexp(1024 + mantissa, exponent - 25);
    ASSERT_EQ(widened, expected) << h;
    ASSERT_EQ(std::signbit(widened), std::signbit(expected)) << h;
    ASSERT_EQ(fa::narrow::f32_bits_to_f16(std::bit_cast<uint32_t>(widened)), bits);
  }
}

}  // namespace
