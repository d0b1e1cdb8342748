// The pieces of the CPU kernels, on every instruction set that this CPU has.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "unit/simd_test.cpp"
#include "hwy/foreach_target.h"  // must come first
// clang-format off
#include "hwy/highway.h"
#include "cpu/amx-inl.hpp"
#include "cpu/gemm-inl.hpp"
#include "cpu/math-inl.hpp"
#include "cpu/rows-inl.hpp"
#include "cpu/score-inl.hpp"
// clang-format on

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cpu/target.hpp"
#include "hwy/aligned_allocator.h"
#include "hwy/targets.h"

HWY_BEFORE_NAMESPACE();
namespace fa::cpu::HWY_NAMESPACE {

/// Nearest number of a format, ties to even: by comparing distances in double.
/// step_bits: float32 bits that the format drops; only for its normal range.
uint32_t nearest_bits(uint32_t x, int step_bits) {
  const uint32_t down = x >> step_bits << step_bits;
  const uint32_t up = down + (1u << step_bits);
  const auto value = [](uint32_t bits) {
    return static_cast<double>(std::bit_cast<float>(bits & 0x7FFFFFFFu));
  };
  const double to_down = value(x) - value(down);
  const double to_up = value(up) - value(x);
  const bool even = (down >> step_bits & 1) == 0;
  return to_down < to_up || (to_down == to_up && even) ? down : up;
}

/// Every sign, exponent and kept mantissa, with the dropped bits around their ties.
std::vector<float> rounding_cases(int step_bits) {
  std::vector<float> cases;
  const uint32_t half = 1u << (step_bits - 1);
  for (uint64_t kept = 0; kept < uint64_t{1} << 32; kept += uint64_t{1} << step_bits) {
    for (const uint32_t dropped : {0u, 1u, half - 1, half, half + 1, 2 * half - 1}) {
      cases.push_back(std::bit_cast<float>(static_cast<uint32_t>(kept) | dropped));
    }
  }
  while (cases.size() % 8 != 0) cases.push_back(0);
  return cases;
}

void TestBfloat16() {
  const std::vector<float> cases = rounding_cases(16);
  std::vector<uint16_t> out(cases.size());
  store_row(bfloat16, cases.data(), static_cast<int64_t>(cases.size()), 1.0f,
            reinterpret_cast<char*>(out.data()));
  for (size_t i = 0; i < cases.size(); ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(cases[i]);
    if (std::isnan(cases[i])) {
      ASSERT_TRUE(std::isnan(std::bit_cast<float>(uint32_t{out[i]} << 16))) << bits;
    } else if (std::isinf(cases[i])) {
      ASSERT_EQ(out[i], bits >> 16);
    } else if ((bits & 0x7FFFFFFFu) >= 0x7F7F8000u) {
      ASSERT_EQ(out[i] & 0x7FFFu, 0x7F80u) << "beyond the largest number: infinity";
    } else {
      ASSERT_EQ(out[i], nearest_bits(bits, 16) >> 16) << bits;
    }
    ASSERT_EQ(fa::narrow::f32_bits_to_bf16(bits), out[i]) << bits;
  }
}

void TestFloat16() {
  std::vector<float> cases = rounding_cases(13);
  std::vector<uint16_t> out(cases.size());
  store_row(float16, cases.data(), static_cast<int64_t>(cases.size()), 1.0f,
            reinterpret_cast<char*>(out.data()));
  for (size_t i = 0; i < cases.size(); ++i) {
    const float x = cases[i];
    const double magnitude = std::abs(static_cast<double>(x));
    const uint16_t positive = out[i] & 0x7FFF;
    ASSERT_EQ(fa::narrow::f32_bits_to_f16(std::bit_cast<uint32_t>(x)), out[i]) << x;
    ASSERT_EQ(out[i] >> 15, std::signbit(x)) << x;
    if (std::isnan(x)) {
      ASSERT_GT(positive, 0x7C00);
    } else if (magnitude >= 65520) {
      ASSERT_EQ(positive, 0x7C00) << x;
    } else {
      // The neighbours are no nearer, and at the same distance the even one is taken.
      const auto value = [](uint16_t h) {
        return static_cast<double>(std::bit_cast<float>(fa::narrow::f16_to_f32_bits(h)));
      };
      const double error = std::abs(value(positive) - magnitude);
      if (positive > 0) {
        const double below = std::abs(value(positive - 1) - magnitude);
        ASSERT_TRUE(error < below || (error == below && positive % 2 == 0)) << x;
      }
      if (positive < 0x7BFF) {
        const double above = std::abs(value(positive + 1) - magnitude);
        ASSERT_TRUE(error < above || (error == above && positive % 2 == 0)) << x;
      }
    }
  }
}

/// Stores past the caches write the same bits as usual stores, to whole cache lines and to others.
void TestStream() {
  constexpr int64_t width = 96;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  auto in = hwy::AllocateAligned<float>(width);
  for (int64_t i = 0; i < width; ++i) in[i] = normal(random);
  for (const DType dtype : {float32, float16, bfloat16}) {
    for (const int64_t n : {8, 32, 72, 96}) {
      for (const int64_t offset : {0, 8, 64}) {
        const size_t bytes = n * bytes_of(dtype);
        auto usual = hwy::AllocateAligned<char>(512);
        auto streamed = hwy::AllocateAligned<char>(512);
        std::memset(usual.get(), 1, 512);
        std::memset(streamed.get(), 1, 512);
        store_row(dtype, in.get(), n, 3.0f, usual.get() + offset);
        store_row(dtype, in.get(), n, 3.0f, streamed.get() + offset, Store::past_caches);
        ASSERT_EQ(std::memcmp(usual.get(), streamed.get(), 512), 0) << n << " at " << offset;
        ASSERT_EQ(usual[offset + bytes], 1);
      }
    }
  }
}

void TestWidening() {
  std::vector<uint16_t> in(1 << 16);
  for (size_t h = 0; h < in.size(); ++h) in[h] = static_cast<uint16_t>(h);
  auto out = hwy::AllocateAligned<float>(in.size());
  for (const DType dtype : {float16, bfloat16}) {
    load_row(dtype, reinterpret_cast<const char*>(in.data()), static_cast<int64_t>(in.size()), 1.0f,
             out.get());
    for (size_t h = 0; h < in.size(); ++h) {
      const uint32_t expected = dtype == float16 ? fa::narrow::f16_to_f32_bits(in[h])
                                                 : fa::narrow::bf16_to_f32_bits(in[h]);
      const uint32_t bits = std::bit_cast<uint32_t>(out[h]);
      if (std::isnan(std::bit_cast<float>(expected))) {
        ASSERT_TRUE(std::isnan(out[h])) << h;
      } else {
        ASSERT_EQ(bits, expected) << h;
      }
    }
  }
}

template <Exp exactness>
void TestExp(double error, double error_by_x) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto x = hwy::AllocateAligned<float>(lane_pad);
  auto y = hwy::AllocateAligned<float>(lane_pad);
  double worst = 0;
  for (int64_t n = 0; n < 873000; n += lanes) {
    for (int64_t i = 0; i < lanes; ++i) x[i] = -1e-4f * static_cast<float>(n + i);
    hn::Store(exp_negative<exactness>(d, hn::Load(d, x.get())), d, y.get());
    for (int64_t i = 0; i < lanes; ++i) {
      const double exact = std::exp(static_cast<double>(x[i]));
      worst = std::max(worst, std::abs(y[i] - exact) / exact / (error + error_by_x * -x[i]));
    }
  }
  EXPECT_LT(worst, 1);
  EXPECT_GT(worst, 0.5) << "the bounds have grown too wide";
  const float infinity = std::numeric_limits<float>::infinity();
  const auto one = [&](float value) {
    return hn::GetLane(exp_negative<exactness>(d, hn::Set(d, value)));
  };
  EXPECT_EQ(one(0.0f), 1.0f);
  EXPECT_EQ(one(-100.0f), 0.0f);
  EXPECT_EQ(one(-3.4e38f), 0.0f);
  EXPECT_EQ(one(-infinity), 0.0f);
  EXPECT_TRUE(std::isnan(one(std::nanf(""))));
}

void TestTanh() {
  const Floats d;
  const auto one = [&](float value) { return hn::GetLane(tanh_of(d, hn::Set(d, value))); };
  double worst = 0;
  for (int n = 1; n < 120000; ++n) {
    const float x = (n % 2 == 0 ? 1e-4f : -1e-4f) * static_cast<float>(n);
    const double exact = std::tanh(static_cast<double>(x));
    worst = std::max(worst, std::abs((one(x) - exact) / exact));
  }
  EXPECT_LT(worst, 2.4e-7);  // 2 ulp
  EXPECT_EQ(one(0.0f), 0.0f);
  EXPECT_EQ(one(1e-30f), 1e-30f);
  EXPECT_EQ(one(3e38f), 1.0f);
  EXPECT_EQ(one(-3e38f), -1.0f);
  EXPECT_TRUE(std::isnan(one(std::nanf(""))));
}

/// Row k of A or B beside row k + 1, as words of bfloat16.
Pair pair_of(float first, float second) {
  return std::bit_cast<uint32_t>(first) >> 16 | (std::bit_cast<uint32_t>(second) & 0xffff0000u);
}

/// A product of pairs along the depth is the product of the numbers.
template <Layout layout>
void gemm_of_pairs([[maybe_unused]] int64_t m, [[maybe_unused]] int64_t n, int64_t depth,
                   const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                   [[maybe_unused]] float* c, [[maybe_unused]] Accumulate accumulate) {
  const auto a_at = [&](int64_t i, int64_t k) {
    if (k == depth) return 0.0f;
    return layout == Layout::transposed ? a[k * a_stride + i] : a[i * a_stride + k];
  };
  auto a_pairs = hwy::AllocateAligned<float>(std::max(m, depth) * std::max(a_stride, score_stride));
  auto b_pairs = hwy::AllocateAligned<float>((depth + 1) * b_stride);
  for (int64_t k = 0; k < depth; k += 2) {
    for (int64_t i = 0; i < m; ++i) {
      const int64_t at = layout == Layout::transposed ? k / 2 * a_stride + i : i * a_stride + k / 2;
      as_pairs(a_pairs.get())[at] = pair_of(a_at(i, k), a_at(i, k + 1));
    }
    for (int64_t j = 0; j < b_stride; ++j) {
      const float second = k + 1 < depth ? b[(k + 1) * b_stride + j] : 0;
      as_pairs(b_pairs.get())[k / 2 * b_stride + j] = pair_of(b[k * b_stride + j], second);
    }
  }
#if FA_CPU_HAS_PAIRS
  gemm<layout>(m, n, depth, as_pairs(a_pairs.get()), a_stride, as_pairs(b_pairs.get()), b_stride, c,
               b_stride, accumulate);
#endif
}

template <Layout layout>
void TestGemm(int64_t m, int64_t n, int64_t depth, Accumulate::Mode mode, bool pairs) {
  std::mt19937 random(static_cast<unsigned>(m * 1000 + n * 10 + depth));
  std::uniform_int_distribution<int> small(-8, 8);  // integers: the sums are exact
  const int64_t a_stride = layout == Layout::transposed ? row_stride(m) : score_stride;
  const int64_t b_stride = row_stride(n);
  auto a = hwy::AllocateAligned<float>(std::max(m, depth) * std::max(a_stride, score_stride));
  auto b = hwy::AllocateAligned<float>(depth * b_stride + 1);
  auto c = hwy::AllocateAligned<float>((m + 1) * b_stride);
  std::vector<float> before((m + 1) * b_stride);
  std::vector<float> factors(m);
  for (int64_t i = 0; i < std::max(m, depth) * a_stride; ++i)
    a[i] = static_cast<float>(small(random));
  for (int64_t i = 0; i < depth * b_stride; ++i) b[i] = static_cast<float>(small(random));
  for (int64_t i = 0; i < (m + 1) * b_stride; ++i) {
    before[i] = c[i] = static_cast<float>(small(random));
  }
  for (float& f : factors) f = static_cast<float>(small(random));
  const Accumulate accumulate{mode, factors.data()};
  if (pairs) {
    gemm_of_pairs<layout>(m, n, depth, a.get(), a_stride, b.get(), b_stride, c.get(), accumulate);
  } else {
    gemm<layout>(m, n, depth, a.get(), a_stride, b.get(), b_stride, c.get(), b_stride, accumulate);
  }
  for (int64_t i = 0; i <= m; ++i) {
    for (int64_t j = 0; j < b_stride; ++j) {
      float expected = before[i * b_stride + j];
      if (i < m && j < padded(n)) {
        expected *= mode == Accumulate::store ? 0 : mode == Accumulate::add ? 1 : factors[i];
        for (int64_t k = 0; k < depth; ++k) {
          const float a_ik =
              layout == Layout::transposed ? a[k * a_stride + i] : a[i * a_stride + k];
          expected += a_ik * b[k * b_stride + j];
        }
      }
      ASSERT_EQ(c[i * b_stride + j], expected)
          << m << " x " << n << " x " << depth << " at " << i << ", " << j;
    }
  }
}

void TestGemms() {
  for (const int64_t m : {1, 2, 5, 11, 12, 13, 23, 40}) {
    for (const int64_t n : {1, 16, 17, 32, 40, 100}) {
      for (const int64_t depth : {0, 1, 7, 96}) {
        for (const auto mode : {Accumulate::store, Accumulate::add, Accumulate::rescale}) {
          for (const bool pairs :
               {false, FA_CPU_HAS_PAIRS && bfloat16_arithmetic() == Arithmetic::pairs}) {
            TestGemm<Layout::scores>(m, n, depth, mode, pairs);
            TestGemm<Layout::transposed>(m, n, depth, mode, pairs);
          }
        }
      }
    }
  }
}

/// Integers: the sums are exact. Rows, columns and depth in whole tiles, the rest of A's depth 0.
void TestTileProduct([[maybe_unused]] int64_t m, [[maybe_unused]] int64_t n,
                     [[maybe_unused]] int64_t depth, [[maybe_unused]] Accumulate::Mode mode) {
#if FA_CPU_HAS_PAIRS
  if (bfloat16_arithmetic() != Arithmetic::tiles) return;
  std::mt19937 random(static_cast<unsigned>(m * 1000 + n * 10 + depth));
  std::uniform_int_distribution<int> small(-8, 8);
  const int64_t rows = in_tiles(m), columns = in_tiles(n), numbers = in_tiles(depth);
  const int64_t a_stride = row_stride(numbers / 2), b_stride = row_stride(columns);
  std::vector<float> a(rows * numbers), b(numbers * columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < depth; ++k) a[i * numbers + k] = static_cast<float>(small(random));
  }
  for (float& x : b) x = static_cast<float>(small(random));
  auto a_pairs = hwy::AllocateAligned<Pair>(rows * a_stride);
  auto b_pairs = hwy::AllocateAligned<Pair>(numbers / 2 * b_stride);
  auto c = hwy::AllocateAligned<float>(rows * b_stride);
  for (int64_t i = 0; i < rows * b_stride; ++i) c[i] = 5;
  for (int64_t k = 0; k < numbers; k += 2) {
    for (int64_t i = 0; i < rows; ++i) {
      a_pairs[i * a_stride + k / 2] = pair_of(a[i * numbers + k], a[i * numbers + k + 1]);
    }
    for (int64_t j = 0; j < columns; ++j) {
      b_pairs[k / 2 * b_stride + j] = pair_of(b[k * columns + j], b[(k + 1) * columns + j]);
    }
  }
  const TileRegisters registers;
  tile_product(m, n, depth, a_pairs.get(), a_stride, b_pairs.get(), b_stride, c.get(), b_stride,
               mode, {});
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      float expected = mode == Accumulate::add ? 5 : 0;
      for (int64_t k = 0; k < depth; ++k) expected += a[i * numbers + k] * b[k * columns + j];
      ASSERT_EQ(c[i * b_stride + j], expected) << m << " x " << n << " x " << depth;
    }
  }
#endif
}

/// Rounded to nearest even, but for subnormal numbers: those are 0.
void TestNarrowingToPairs() {
#if FA_CPU_HAS_PAIRS
  if (bfloat16_arithmetic() == Arithmetic::widened) return;
  const Floats d;
  std::mt19937 random(7);
  HWY_ALIGN float x[2 * lane_pad];
  HWY_ALIGN Pair side_by_side[lane_pad];
  HWY_ALIGN Pair interleaved[lane_pad];
  const auto half = [](const Pair* words, int64_t i) {
    return words[i / 2] >> (i % 2 * 16) & 0xffff;
  };
  for (int n = 0; n < 20000; ++n) {
    for (float& number : x) {
      uint32_t bits = random();
      if (n % 2 == 0) bits = (bits & 0xffff0000u) | 0x7fffu + random() % 3;  // about a tie
      number = std::bit_cast<float>(bits);
    }
    hn::Store(narrow(hn::Load(d, x), hn::Load(d, x + lane_pad)), Pairs(), side_by_side);
    hn::Store(narrow_interleaved(hn::Load(d, x), hn::Load(d, x + lane_pad)), Pairs(), interleaved);
    for (int64_t i = 0; i < 2 * lane_pad; ++i) {
      if (std::isnan(x[i])) continue;
      const bool subnormal = std::abs(x[i]) < std::numeric_limits<float>::min();
      const float counts = subnormal ? std::copysign(0.0f, x[i]) : x[i];
      const uint32_t expected = narrow::f32_bits_to_bf16(std::bit_cast<uint32_t>(counts));
      ASSERT_EQ(half(side_by_side, i), expected) << x[i];
      ASSERT_EQ(half(interleaved, i % lane_pad * 2 + i / lane_pad), expected) << x[i];
    }
  }
#endif
}

/// Word (c, r) of the transpose has the numbers 2 c and 2 c + 1 of row r; word (r, c) of
/// interleaved rows the numbers c of the rows 2 r and 2 r + 1.
void TestRowsAsPairs(int64_t rows, int64_t width) {
  const int64_t out_width = row_stride(width), out_rows = row_stride(rows);
  std::vector<uint16_t> in(rows * width);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i + 1);
  const auto row_at = [&](int64_t r) { return reinterpret_cast<const char*>(&in[r * width]); };
  const auto number = [&](int64_t r, int64_t c) -> Pair {
    return r < rows && c < width ? in[r * width + c] : 0;
  };
  auto out = hwy::AllocateAligned<Pair>(std::max(width * out_rows, (rows + 1) / 2 * out_width));
  transpose_pairs(row_at, rows, width, out.get(), out_rows);
  for (int64_t c = 0; c < width / 2; ++c) {
    for (int64_t r = 0; r < padded(rows); ++r) {
      ASSERT_EQ(out[c * out_rows + r], number(r, 2 * c) | number(r, 2 * c + 1) << 16)
          << rows << " x " << width;
    }
  }
  interleave_rows(row_at, rows, width, out.get(), out_width);
  for (int64_t r = 0; r < (rows + 1) / 2; ++r) {
    for (int64_t c = 0; c < padded(width); ++c) {
      ASSERT_EQ(out[r * out_width + c], number(2 * r, c) | number(2 * r + 1, c) << 16)
          << rows << " x " << width;
    }
  }
}

/// Philox4x32-7 in plain steps, as in its paper.
struct Words {
  uint32_t word[4];
};
Words philox(Words c, uint32_t key_0, uint32_t key_1) {
  for (int round = 0; round < 7; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c.word[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * c.word[2];
    c = {{static_cast<uint32_t>(b >> 32) ^ c.word[1] ^ key_0, static_cast<uint32_t>(b),
          static_cast<uint32_t>(a >> 32) ^ c.word[3] ^ key_1, static_cast<uint32_t>(a)}};
    key_0 += 0x9E3779B9;
    key_1 += 0xBB67AE85;
  }
  return c;
}

void TestDropout() {
  const Words known = philox({{0, 0, 0, 0}}, 0, 0);  // Random123's known answer
  ASSERT_EQ(known.word[0], 0x5f6fb709u);
  ASSERT_EQ(known.word[3], 0x4f730a48u);
  Call call;
  call.problem.q.heads = 5;
  call.problem.dropout_p = 0.3;
  call.dropout_seed = 0x123456789ABCDEF0;
  call.dropout_offset = 0xFEDCBA9876543210;
  Sequence sequence;
  sequence.index = 3;
  auto factors = hwy::AllocateAligned<float>(score_stride);
  for (const int64_t i : {0, 7, 8, 15, 16, 1000003}) {
    for (const int64_t j0 : {0, 16, 96, 4096}) {
      ScoreRow(call, sequence, 2, i).keep(j0, 33, factors.get());
      for (int64_t j = 0; j < 33; ++j) {
        const int64_t key = j0 + j;
        const auto block = [](int64_t x) { return static_cast<uint32_t>(x / 16 * 8 + x % 8); };
        const Words words = philox({{block(i), block(key), (3 * 5 + 2) ^ 0xFEDCBA98u, 0x76543210u}},
                                   0x9ABCDEF0u, 0x12345678u);
        const uint32_t word = words.word[2 * (i / 8 % 2) + key / 8 % 2];
        const bool kept = word >= static_cast<uint32_t>(std::floor(0.3 * 4294967296.0));
        ASSERT_EQ(factors[j], kept ? static_cast<float>(1 / 0.7) : 0.0f) << i << ", " << key;
      }
    }
  }
}

void RunAll() {
  SCOPED_TRACE(hwy::TargetName(HWY_TARGET));
  TestBfloat16();
  TestFloat16();
  TestStream();
  TestWidening();
  TestExp<Exp::full>(1.6e-7, 8e-8);
  TestExp<Exp::for_bfloat16>(3e-6, 8e-8);
  TestTanh();
  TestGemms();
  for (const auto mode : {Accumulate::store, Accumulate::add}) {
    TestTileProduct(5, 32, 64, mode);
    TestTileProduct(96, 100, 40, mode);
  }
  TestNarrowingToPairs();
  for (const int64_t rows : {1, 2, 7, 16, 33}) {
    for (const int64_t width : {8, 16, 24, 72, 128}) TestRowsAsPairs(rows, width);
  }
  TestDropout();
}

}  // namespace fa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fa::cpu {

HWY_EXPORT(RunAll);

TEST(Simd, EveryInstructionSet) {
  int tested = 0;
  for (int64_t left = hwy::SupportedTargets() & HWY_TARGETS; left != 0; left &= left - 1) {
#if (HWY_TARGETS & (HWY_TARGETS - 1)) == 0
    HWY_STATIC_DISPATCH(RunAll)();
#else
    hwy::ChosenTarget target;
    target.Update(left & -left);
    HWY_DISPATCH_TABLE(RunAll)[target.GetIndex()]();
#endif
    ++tested;
  }
  EXPECT_GT(tested, 0);
}

}  // namespace fa::cpu
#endif
