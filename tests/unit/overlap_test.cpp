// Shared memory is found exactly: against brute force on random strides, and by hand where extents
// are too large for that.
#include "problem/overlap.hpp"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "fa/attention.hpp"
#include "floats.hpp"

namespace {

using fa::Footprint;
using fa::Sharing;

/// Marks each byte of a tensor with how many of its elements hold it.
std::vector<int> bytes_of(const Footprint& f, size_t size) {
  std::vector<int> marks(size);
  std::vector<uintptr_t> places{f.begin};
  for (size_t d = 0; d < f.count; ++d) {
    const std::vector<uintptr_t> before = places;
    for (int64_t i = 1; i <= f.dims[d].last; ++i) {
      for (const uintptr_t place : before) places.push_back(place + i * f.dims[d].step);
    }
  }
  for (const uintptr_t place : places) {
    for (int64_t byte = 0; byte < f.run; ++byte) ++marks[place + byte];
  }
  return marks;
}

constexpr size_t space = 4096;

/// `unlike`: strides of any size in any order, which need not be nested.
Footprint random_footprint(std::mt19937& random, bool unlike) {
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % n); };
  Footprint f;
  f.run = int64_t{1} << below(4);
  int64_t reach = 0;
  for (int64_t d = below(4), step = f.run; d > 0; --d) {
    step = unlike ? 1 + below(150) : step * (1 + below(3)) + below(2) * below(20);
    const int64_t last = below(5);
    f.add(step, last);
    reach += step * last;
    step += step * last;
  }
  f.begin = below(300);
  f.end = f.begin + reach + f.run;
  return f;
}

TEST(Overlap, IsWhatBruteForceFinds) {
  std::mt19937 random(1);
  int shared = 0;
  int within = 0;
  int apart_in_reach = 0;
  for (int n = 0; n < 200000; ++n) {
    const Footprint a = random_footprint(random, n % 2 == 0);
    const Footprint b = random_footprint(random, n % 3 == 0);
    if (a.end > space || b.end > space) continue;
    const std::vector<int> of_a = bytes_of(a, space);
    const std::vector<int> of_b = bytes_of(b, space);
    bool meet = false;
    bool twice = false;
    for (size_t i = 0; i < space; ++i) {
      meet = meet || (of_a[i] > 0 && of_b[i] > 0);
      twice = twice || of_a[i] > 1;
    }
    ASSERT_EQ(fa::sharing(a, b), meet ? Sharing::some : Sharing::none) << "pair " << n;
    ASSERT_EQ(fa::sharing_within(a), twice ? Sharing::some : Sharing::none) << "tensor " << n;
    shared += meet ? 1 : 0;
    within += twice ? 1 : 0;
    apart_in_reach += !meet && a.begin < b.end && b.begin < a.end ? 1 : 0;
  }
  EXPECT_GT(shared, 20000);
  EXPECT_GT(within, 5000);
  EXPECT_GT(apart_in_reach, 20000);
}

Footprint footprint(uintptr_t begin, int64_t run, const std::vector<Footprint::Dim>& dims) {
  Footprint f;
  f.begin = f.end = begin;
  f.run = run;
  for (const auto& [step, last] : dims) {
    f.add(step, last);
    f.end += step * last;
  }
  f.end += run;
  return f;
}

TEST(Overlap, OfLargeTensors) {
  // A dense output in the fused buffer's rows, and the hole between them.
  const Footprint rows = footprint(1 << 20, 4, {{4, 127}, {12288, (1 << 20) - 1}});
  EXPECT_EQ(fa::sharing(rows, footprint((1 << 20) + 5 * 12288 + 512, 4, {{4, 2943}})),
            Sharing::none);
  EXPECT_EQ(fa::sharing(rows, footprint((1 << 20) + 5 * 12288 + 512, 4, {{4, 2944}})),
            Sharing::some);
  // Rows of other lengths, in step only after some 10^9 bytes: Euclid's algorithm.
  const int64_t many = (1 << 22) - 1;
  for (const int64_t offset : {0, 4, 8, 400}) {
    const Footprint a = footprint(1000, 4, {{4 * 999983, many}});
    const Footprint b = footprint(1000 + offset, 4, {{4 * 999979, many}});
    EXPECT_EQ(fa::sharing(a, b), Sharing::some) << offset;
    const Footprint few = footprint(1000 + offset, 4, {{4 * 999979, 0}});
    EXPECT_EQ(fa::sharing(a, few), offset == 0 ? Sharing::some : Sharing::none) << offset;
  }
  // Even and odd pages of one arena, whatever the strides within them are.
  const Footprint even = footprint(0, 4, {{4, 127}, {512, 7}, {8192 * 3, 10000}, {8192 * 7, 999}});
  const Footprint odd = footprint(4096, 4, {{4, 63}, {256, 15}, {8192 * 5, 10000}, {8192, 9999}});
  EXPECT_EQ(fa::sharing(even, odd), Sharing::none);
}

TEST(Overlap, EndsUndecidedInLittleTime) {
  const Footprint a = footprint(0, 1, {{10000019, 9001}, {30011, 9973}, {2003, 7919}});
  const Footprint b = footprint(7, 1, {{10000079, 9001}, {30013, 9973}, {2011, 7919}});
  const auto begin = std::chrono::steady_clock::now();
  (void)fa::sharing(a, b);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
}

/// Every pair of a query and an output with random strides in one buffer, through the interface.
TEST(Overlap, IsRefusedByTheInterface) {
  std::mt19937 random(2);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % n); };
  fa::test::Floats memory({1200}, 0.5f), k({2, 1, 1, 8}, 0.5f), v({2, 1, 1, 8}, 0.5f);
  int shared = 0;
  int taken = 0;
  for (int n = 0; n < 150000; ++n) {
    const int64_t shape[] = {2, 2, 1 + below(2), 8};
    fa::test::Floats used({1200});
    const auto random_view = [&] {
      std::array<int64_t, 4> strides{below(90) - 20, below(60) - 20, below(50) - 16, 1};
      float* first = memory.data.data() + 240 + below(300);
      return fa::View(first, fa::float32, shape, strides.data(), 4);
    };
    const auto places = [&](const fa::View& view, auto visit) {
      const auto first = static_cast<float*>(view.data) - memory.data.data();
      for (int64_t i = 0; i < shape[0] * shape[1] * shape[2] * 8; ++i) {
        const int64_t at[] = {i / 8 / shape[2] / shape[1], i / 8 / shape[2] % shape[1],
                              i / 8 % shape[2], i % 8};
        int64_t place = first;
        for (int d = 0; d < 4; ++d) place += at[d] * view.strides[d];
        visit(place);
      }
    };
    const fa::View q = random_view();
    const fa::View out = random_view();
    bool wrong = false;
    places(out, [&](int64_t place) { wrong = wrong || used.data[place]++ > 0; });
    places(q, [&](int64_t place) { wrong = wrong || used.data[place] > 0; });
    const fa::View keys(k.data.data(), fa::float32, {2, 1, 1, 8});
    std::string refusal;
    try {
      (void)fa::plan_forward({q, keys, v, out, {}});
    } catch (const fa::Error& error) {
      refusal = error.what();
    }
    ASSERT_EQ(!refusal.empty(), wrong) << "pair " << n << ": " << refusal;
    if (wrong) {
      ASSERT_NE(refusal.find("share"), std::string::npos) << refusal;
    }
    shared += wrong ? 1 : 0;
    taken += wrong ? 0 : 1;
  }
  EXPECT_GT(shared, 20000);
  EXPECT_GT(taken, 20000);
}

}  // namespace
