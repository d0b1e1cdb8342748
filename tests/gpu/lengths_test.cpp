// Lengths in device memory are never read by the host, and may say anything: the kernels hold them
// within the tensors. Nothing is read beyond a tensor (NaN lies there) or written (canaries).
#include <gtest/gtest.h>

#include <climits>

#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

using Integers = std::vector<int32_t>;

/// Lengths other than those that the problem was made with.
struct Lie {
  Integers cu_q{}, cu_k{}, used_q{}, used_k{};
  void tell(check::Case& c) const {
    const auto set = [](const Integers& from, check::IntArray<int32_t>& to) {
      if (!from.empty()) to = check::IntArray<int32_t>(from);
    };
    set(cu_q, c.cu_seqlens_q);
    set(cu_k, c.cu_seqlens_k);
    set(used_q, c.seqused_q);
    set(used_k, c.seqused_k);
  }
};

std::vector<std::byte> content(const check::Array& array) { return array.memory().content(); }

void expect_intact(const check::Case& c, uint64_t inputs) {
  EXPECT_TRUE(c.out.memory().intact() && c.lse.memory().intact()) << c.spec.text();
  EXPECT_EQ(c.input_hash(), inputs) << c.spec.text();
}

/// A lie is taken for the nearest truth, which is what the problem was made with.
void expect_as_the_truth(const check::Spec& spec, const Lie& lie) {
  GpuPlace place;
  check::Case c(spec);
  run(c, place);
  const std::vector<std::byte> out = content(c.out), lse = content(c.lse);
  lie.tell(c);
  c.poison(false);
  const uint64_t inputs = c.input_hash();
  run(c, place);
  expect_intact(c, inputs);
  EXPECT_EQ(content(c.out), out) << spec.text();
  EXPECT_EQ(content(c.lse), lse) << spec.text();
}

/// Calls f with a head_dim of each class of tile.
void for_each_dim(const std::function<void(int64_t dim)>& f) {
  constexpr int64_t dims[] = {64, 128, 256};
  in_parallel(3, [&](int64_t n) { f(dims[n]); });
}

check::Spec batched(int64_t rows, int64_t keys, int64_t dim) {
  check::Spec spec =
      problem({.batch = 3, .rows = rows, .keys = keys, .heads_q = 4, .heads_k = 2, .dim = dim});
  spec.causal = rows > 1;
  return spec;
}

TEST(Lengths, UsedBeyondTheTensorOrNegative) {
  for_each_dim([](int64_t dim) {
    check::Spec spec = batched(140, 150, dim);
    use(spec.rows, {140, 0, 70});
    use(spec.keys, {150, 150, 0});
    expect_as_the_truth(spec, {.used_q = {141, -1, 70}, .used_k = {151, INT_MAX, INT_MIN}});
  });
}

TEST(Lengths, UsedBeyondTheTensorWhereKeysAreSplit) {
  check::Spec spec = batched(2, 2300, 128);
  use(spec.rows, {2, 1, 0});
  use(spec.keys, {2300, 0, 9});
  expect_as_the_truth(spec, {.used_q = {INT_MAX, 1, -7}, .used_k = {1 << 30, -3, 9}});
}

check::Spec packed(int64_t dim) {
  check::Spec spec = problem({.batch = 3, .heads_q = 4, .heads_k = 2, .dim = dim});
  pack(spec.rows, {140, 0, 61});
  pack(spec.keys, {30, 0, 150});
  spec.causal = true;
  return spec;
}

TEST(Lengths, SequencesBeyondTheTokens) {
  for_each_dim([](int64_t dim) {
    expect_as_the_truth(packed(dim), {.cu_q = {-5, 140, 140, 900}, .cu_k = {-1, 30, 30, INT_MAX}});
  });
}

TEST(Lengths, UsedBeyondAPackedSequence) {
  check::Spec spec = packed(64);
  use(spec.rows, {140, 0, 61});
  use(spec.keys, {30, 0, 0});
  expect_as_the_truth(spec, {.used_q = {190, 3, INT_MAX}, .used_k = {31, 500, -2}});
}

TEST(Lengths, SequencesLongerThanTheMaximum) {
  check::Spec spec = packed(64);
  pack(spec.keys, {30, 0, 150}, 40);
  expect_as_the_truth(spec, {.cu_k = {0, 30, 30, 220}});
}

/// No truth is near: any result will do, as long as nothing else is touched and the device goes on.
TEST(Lengths, NonsenseTouchesNothingElse) {
  const std::vector<Lie> lies = {
      {.cu_q = {201, 140, 61, 0}, .cu_k = {180, 100, 50, 0}},  // falling
      {.cu_q = {0, 500, -500, 100}, .cu_k = {90, -9, 1000, 3}},
      {.cu_q = {INT_MIN, INT_MAX, INT_MIN, INT_MAX}, .cu_k = {INT_MAX, INT_MIN, INT_MAX, INT_MIN}},
      {.cu_q = {0, 201, 0, 201}, .cu_k = {0, 180, 0, 180}},  // over and over the same
      {.cu_q = {-1, -1, -1, -1}, .cu_k = {-1, -1, -1, -1}},
      {.cu_q = {0, 140, 140, 201}, .used_q = {INT_MIN, INT_MAX, -1}, .used_k = {-1, 0, INT_MAX}},
  };
  for_each_dim([&](int64_t dim) {
    check::Spec spec = packed(dim);
    use(spec.rows, {140, 0, 61});
    use(spec.keys, {30, 0, 150});
    GpuPlace place;
    for (const Lie& lie : lies) {
      check::Case c(spec);
      lie.tell(c);
      const uint64_t inputs = c.input_hash();
      run(c, place);
      expect_intact(c, inputs);
    }
  });
}

TEST(Lengths, NonsenseTouchesNothingElseWhereKeysAreSplit) {
  check::Spec spec = problem({.batch = 2, .heads_q = 4, .heads_k = 2, .dim = 128});
  pack(spec.rows, {3, 2});
  pack(spec.keys, {2900, 40});
  GpuPlace place;
  const std::vector<Lie> lies = {{.cu_q = {5, 2, 0}, .cu_k = {2940, 40, 0}},
                                 {.cu_q = {-3, INT_MAX, 2}, .cu_k = {INT_MIN, INT_MAX, -1}},
                                 {.cu_q = {0, 5, 0}, .cu_k = {7, 2900, 2000}}};
  for (const Lie& lie : lies) {
    check::Case c(spec);
    ASSERT_GT(workspace_bytes(c, place), 0u);
    lie.tell(c);
    const uint64_t inputs = c.input_hash();
    run(c, place);
    expect_intact(c, inputs);
  }
}

}  // namespace
}  // namespace fa::test
