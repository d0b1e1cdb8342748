// Few queries of sequences in a cache: any length, pages in any order, blocks that share the keys.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <climits>
#include <random>
#include <utility>

#include "gpu/gpu.hpp"
#include "gpu/repeats.hpp"

namespace fa::test {
namespace {

/// What the kernel depends on.
struct Form {
  int64_t rows, heads_q, heads_k, dim, dim_v, page_size;
  void (*more)(check::Spec&) = [](check::Spec&) {};
};

void causal(check::Spec& spec) { spec.causal = true; }
void windowed(check::Spec& spec) {
  spec.causal = true;
  spec.window_left = 700;
}
void with_sinks(check::Spec& spec) {
  spec.tensors[check::Feature::sinks] = {.shape = {spec.heads_q}};
}
void capped(check::Spec& spec) { spec.softcap = 5; }
void with_bias(check::Spec& spec) {
  spec.tensors[check::Feature::bias] = {.shape = {1, spec.heads_q, 1, spec.keys.seqlen}};
}
void in_half(check::Spec& spec) { spec.dtype = float16; }
void with_alibi(check::Spec& spec) {
  spec.causal = true;
  spec.tensors[check::Feature::alibi] = {.shape = {spec.heads_q}};
}

/// Family sm90 by loads and stores of its own: pages have no whole pieces of 8 keys.
void by_hand(check::Spec& spec) {
  spec.causal = true;
  spec.family = Family::sm90;
}

constexpr Form forms[] = {
    {1, 8, 2, 128, 128, 0},
    {1, 8, 1, 64, 64, 128},
    {1, 4, 4, 128, 128, 64, in_half},
    {4, 8, 2, 128, 128, 16, causal},
    {16, 8, 2, 128, 128, 256, windowed},  // two groups of warps
    {2, 6, 2, 256, 256, 64, with_sinks},
    {3, 4, 2, 192, 128, 24, capped},
    {1, 4, 2, 128, 128, 48, with_bias},
    {2, 4, 2, 64, 64, 192, with_alibi},
    {1, 8, 2, 128, 128, 1},  // by sm80, whose threads copy
    {5, 4, 2, 96, 96, 7, causal},
    {2, 4, 2, 128, 128, 20, by_hand},
};

/// A cache of `capacity` keys a sequence, of which `lengths` count.
check::Spec cached(const Form& form, int64_t capacity, const std::vector<int64_t>& lengths,
                   uint64_t seed) {
  if (form.page_size > 0) {
    capacity = (capacity + form.page_size - 1) / form.page_size * form.page_size;
  }
  check::Spec spec = problem({.batch = static_cast<int64_t>(lengths.size()),
                              .rows = form.rows,
                              .keys = capacity,
                              .heads_q = form.heads_q,
                              .heads_k = form.heads_k,
                              .dim = form.dim,
                              .dim_v = form.dim_v});
  spec.seed = seed;
  spec.page_size = form.page_size;
  use(spec.keys, lengths);
  form.more(spec);
  return spec;
}

std::vector<int64_t> random_lengths(int64_t batch, int64_t capacity, std::mt19937_64& random) {
  std::vector<int64_t> lengths;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t most = random() % 3 == 0 ? 150 : capacity;
    lengths.push_back(random() % 8 == 0 ? 0 : static_cast<int64_t>(random() % (most + 1)));
  }
  return lengths;
}

TEST(Cache, SequencesOfAnyLength) {
  std::mt19937_64 random(1);
  std::vector<check::Spec> specs;
  for (const Form& form : forms) {
    for (const int64_t batch : {1, 3, 40}) {
      const int64_t capacity = batch == 1 ? 5000 : 1100;
      specs.push_back(cached(form, capacity, random_lengths(batch, capacity, random), random()));
    }
    specs.push_back(cached(form, 2300, {2300, 2300}, random()));
  }
  expect_right(specs);
}

/// Packed rows, of some sequences one, of others a chunk of a prompt, and tokens of no sequence.
TEST(Cache, DecodingBesidePrompts) {
  std::vector<check::Spec> specs;
  for (const int64_t page_size : {0, 64}) {
    for (const std::vector<int64_t>& rows : {std::vector<int64_t>{1, 130, 1, 0, 7},
                                             {1, 1, 2, 1, 1},
                                             {1, 0, 0, 300, 1},
                                             {0, 0, 0, 0, 0}}) {  // as an engine that warms up
      check::Spec spec = cached({1, 8, 2, 128, 128, page_size}, 1536, {1500, 700, 0, 64, 900}, 3);
      pack(spec.rows, rows, 80);
      spec.causal = true;
      specs.push_back(spec);
    }
  }
  expect_right(specs);
}

/// Blocks claim shares as they come, of the same steps each time; a second kernel may begin early.
TEST(Cache, LaunchesKeepTheirBits) {
  std::mt19937_64 random(7);
  for (const Form& form : forms) {
    const check::Case c(cached(form, 1100, random_lengths(6, 1100, random), 9));
    EXPECT_EQ(launches_that_differ(c, {{&c.out}, {&c.lse}}), 0) << c.spec.text();
  }
}

/// Numbers of no page, for keys that count, are taken for the nearest one; a table's rows may lie
/// apart.
TEST(Cache, TablesThatLie) {
  if (backward_families(64).size() == 1) GTEST_SKIP() << "the GPU is no Hopper";
  for (const Family family : {Family::sm80, Family::sm90}) {
    for (const int64_t page_size : {1, 16, 128}) {
      check::Spec spec = cached({2, 8, 2, 128, 128, page_size}, 1024, {1024, 1024, 1024}, 5);
      spec.family = family;
      const check::Case c(spec);
      const uint64_t inputs = c.input_hash();
      const auto last = static_cast<int32_t>(c.k.shape()[0]) - 1;
      const int32_t lies[] = {INT_MAX, INT_MIN, -1, last + 1, 3};
      const int32_t truths[] = {last, 0, 0, last, 3};
      // The cache holds NaN beside what counts: rows that become NaN must be the same ones.
      const auto run_with = [&](const int32_t (&some)[5]) {
        const std::array<int64_t, 2> shape = c.pages().shape, strides{shape[1] + 3, 1};
        std::vector<int32_t> numbers(static_cast<size_t>(shape[0] * strides[0]));
        for (size_t n = 0; n < numbers.size(); ++n) numbers[n] = some[n % std::size(some)];
        c.poison(false);
        GpuPlace place;
        place.run(c.memory(), [&](const check::Place::Here& here) {
          const GpuMemory table(4 * numbers.size());
          table.upload(0, numbers.data(), 4 * numbers.size());
          Options options = here(c.options());
          options.page_table.data = table.data();
          options.page_table.strides = strides.data();
          forward(here(c.forward_args()), options, here.stream());
        });
        EXPECT_TRUE(c.out.memory().intact() && c.lse.memory().intact()) << page_size;
        EXPECT_EQ(c.input_hash(), inputs) << page_size;
        return std::pair(c.out.memory().content(), c.lse.memory().content());
      };
      EXPECT_EQ(run_with(lies), run_with(truths)) << page_size;
    }
  }
}

}  // namespace
}  // namespace fa::test
