// Keys and values in pages give what the same ones in a row do: random problems, pages of any size
// in any order, NaN wherever nobody may read, and numbers of no page where no key counts.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "check/generate.hpp"
#include "check/problems.hpp"
#include "fa/attention.hpp"
#include "floats.hpp"

namespace fa {
namespace {

/// A cache of pages: memory as wide as its dtype, a number of pages more than are in use.
struct PagedKeys {
  std::vector<std::byte> bytes;  ///< 0xff, a NaN of every format, where no key lies
  std::vector<int64_t> shape;
  Tensor tensor;

  /// The keys of [batch, seqlen, heads, width] that count.
  PagedKeys(const Tensor& keys, const std::vector<int64_t>& lengths, const Tensor& table,
            int64_t pages, int64_t page_size)
      : shape{pages, page_size, keys.shape[2], keys.shape[3]} {
    const int64_t width = keys.dtype.bits / 8;
    bytes.assign(static_cast<size_t>(pages * page_size * shape[2] * shape[3] * width),
                 std::byte{0xff});
    std::vector<int64_t> strides(4, 1);
    for (int d = 2; d >= 0; --d) strides[d] = strides[d + 1] * keys.shape[d + 1];
    if (keys.strides != nullptr) strides.assign(keys.strides, keys.strides + 4);
    const auto* from = static_cast<const std::byte*>(keys.data) + keys.byte_offset;
    const auto* numbers = static_cast<const int32_t*>(table.data);
    for (int64_t b = 0; b < keys.shape[0]; ++b) {
      for (int64_t j = 0; j < lengths[static_cast<size_t>(b)]; ++j) {
        const int64_t row = numbers[b * table.shape[1] + j / page_size] * page_size + j % page_size;
        for (int64_t h = 0; h < shape[2]; ++h) {
          for (int64_t c = 0; c < shape[3]; ++c) {
            std::memcpy(
                bytes.data() + ((row * shape[2] + h) * shape[3] + c) * width,
                from + (b * strides[0] + j * strides[1] + h * strides[2] + c * strides[3]) * width,
                static_cast<size_t>(width));
          }
        }
      }
    }
    tensor = keys;
    tensor.data = bytes.data();
    tensor.byte_offset = 0;
    tensor.shape = shape.data();
    tensor.strides = nullptr;
  }
};

Tensor integers(std::vector<int32_t>& numbers, const std::vector<int64_t>& shape) {
  return {numbers.data(), {1, 0}, static_cast<int32_t>(shape.size()), int32, shape.data(),
          nullptr,        0};
}

/// Pages of each sequence in a random order. Behind the keys that count stand numbers of no page.
struct Table {
  std::vector<int32_t> numbers;
  std::vector<int64_t> shape;
  int64_t pages;

  Table(const std::vector<int64_t>& lengths, int64_t per_sequence, int64_t page_size,
        std::mt19937_64& random)
      : numbers(lengths.size() * static_cast<size_t>(per_sequence), -7),
        shape{static_cast<int64_t>(lengths.size()), per_sequence},
        pages(shape[0] * per_sequence + 2) {
    std::vector<int32_t> free(static_cast<size_t>(pages));
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), random);
    for (size_t b = 0; b < lengths.size(); ++b) {
      for (int64_t n = 0; n * page_size < lengths[b]; ++n) {
        numbers[b * static_cast<size_t>(per_sequence) + static_cast<size_t>(n)] = free.back();
        free.pop_back();
      }
    }
  }
};

std::vector<double> results(const check::Case& c) {
  std::vector<double> all = c.out.values();
  if (c.spec.lse) {
    const std::vector<double> lse = c.lse.values();
    all.insert(all.end(), lse.begin(), lse.end());
  }
  return all;
}

void expect_near(const std::vector<double>& paged, const std::vector<double>& expected,
                 double tolerance, const std::string& what) {
  ASSERT_EQ(paged.size(), expected.size()) << what;
  int64_t wrong = 0;
  for (size_t i = 0; i < paged.size(); ++i) {
    const bool same = paged[i] == expected[i];  // infinities, too
    wrong += !same && !(std::abs(paged[i] - expected[i]) <=
                        tolerance * std::max(1.0, std::abs(expected[i])));
  }
  EXPECT_EQ(wrong, 0) << "of " << paged.size() << ": " << what;
}

TEST(Paged, AreAsGoodAsKeysInARow) {
  constexpr int64_t count = 2000;
  const check::Problems problems(3, check::cpu_offer, 120);
  std::mt19937_64 random(3);
  int64_t tried = 0;
  for (int64_t n = 0; n < count; ++n) {
    check::Spec spec = problems.draw(n);
    if (spec.keys.packed || spec.page_size > 0) continue;
    spec.backward = false;
    const int64_t sizes[] = {1, 2, 7, 16, 24, 48, 64, 128, 256};
    const int64_t page_size = sizes[random() % std::size(sizes)];
    // A bias has as many columns as the table has keys.
    const bool has_bias = spec.tensor(check::Feature::bias) != nullptr;
    if (has_bias && spec.keys.seqlen % page_size != 0) continue;
    ++tried;
    const check::Case c(spec);
    const ForwardArgs args = c.forward_args();
    const Options options = c.options();
    forward(args, options);
    const std::vector<double> expected = results(c);

    std::vector<int64_t> lengths;
    for (int64_t b = 0; b < spec.batch; ++b) lengths.push_back(spec.keys.length(b));
    const int64_t more = has_bias ? 0 : static_cast<int64_t>(random() % 3);
    const int64_t per_sequence = (spec.keys.seqlen + page_size - 1) / page_size + more;
    Table table(lengths, per_sequence, page_size, random);
    const Tensor numbers = integers(table.numbers, table.shape);
    const PagedKeys k(args.k, lengths, numbers, table.pages, page_size);
    const PagedKeys v(args.v, lengths, numbers, table.pages, page_size);
    std::vector<int32_t> used(lengths.begin(), lengths.end());
    const std::vector<int64_t> used_shape{spec.batch};
    Options paged = options;
    paged.page_table = numbers;
    paged.seqused_k = integers(used, used_shape);
    c.poison(false);
    forward({args.q, k.tensor, v.tensor, args.out, args.lse}, paged);

    const std::string what = fmt::format("pages of {}: {}", page_size, spec.text());
    // Where keys are read in place they are taken by 16, pairs of bfloat16 by 32, and those of a
    // window from the window on. What lies in one page then has the same sums.
    const double rounding = spec.dtype == bfloat16 ? 0.02 : spec.dtype == float16 ? 3e-3 : 2e-5;
    const double size = std::max({1.0, spec.value_size, spec.score_size});
    const bool pairs = spec.dtype == bfloat16;
    const bool same_sums = page_size % (pairs ? 32 : 16) == 0 && !(pairs && spec.window_left >= 0);
    expect_near(results(c), expected, same_sums ? 0 : rounding * size, what);
  }
  EXPECT_GT(tried, count / 4);
}

/// Two sequences whose first pages are the same, as of a common prompt: one row each, read in
/// place.
TEST(Paged, SequencesShareAPage) {
  std::mt19937 random(5);
  const test::Floats q = test::normal({2, 1, 4, 64}, random),
                     k = test::normal({4, 32, 2, 64}, random),
                     v = test::normal({4, 32, 2, 64}, random);
  const std::vector<int64_t> table_shape{2, 2};
  const auto attend = [&](std::vector<int32_t> pages) {
    test::Floats out({2, 1, 4, 64}), lse({2, 4, 1});
    Options options;
    options.page_table = integers(pages, table_shape);
    forward(q, k, v, out, lse, options);
    return out.data;
  };
  const std::vector<float> shared = attend({2, 0, 2, 3}), apart = attend({2, 0, 1, 3});
  const ptrdiff_t row = 4 * 64;
  EXPECT_TRUE(std::equal(shared.begin(), shared.begin() + row, apart.begin()));
  EXPECT_FALSE(std::equal(shared.begin() + row, shared.end(), apart.begin() + row));
  const std::vector<float> alike = attend({2, 0, 2, 0});
  EXPECT_NE(std::vector(alike.begin() + row, alike.end()),
            std::vector(shared.begin() + row, shared.end()));
}

}  // namespace
}  // namespace fa
