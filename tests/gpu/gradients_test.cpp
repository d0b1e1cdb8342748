// The backward pass, over and over, under lengths that lie, and the memory it takes. That gradients
// are right is what random problems show (fa check); here are their repeats.
#include <gtest/gtest.h>

#include <climits>
#include <string_view>

#include "gpu/driver_more.hpp"
#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

/// Tiles of each head_dim and family, with heads that share keys and without, in both formats.
std::vector<check::Spec> chosen() {
  std::vector<check::Spec> specs = plain_and_packed();
  for (check::Spec& spec : specs) spec.backward = true;
  const auto add = [&](const Extents& extents) -> check::Spec& {
    check::Spec& spec = specs.emplace_back(problem(extents));
    spec.backward = true;
    return spec;
  };
  add({.rows = 1500, .keys = 1400, .heads_q = 2, .heads_k = 2, .dim = 64});
  add({.rows = 150, .keys = 140, .heads_q = 4, .heads_k = 2, .dim = 512});

  check::Spec& options = add({.batch = 2, .rows = 190, .keys = 230, .heads_q = 4, .heads_k = 1});
  options.dtype = float16;
  options.softcap = 5;
  options.tensors[check::Feature::alibi] = {.shape = {4}};
  options.tensors[check::Feature::bias] = {.shape = {1, 4, 190, 230}, .gradient = true};
  options.tensors[check::Feature::sinks] = {.shape = {4}, .gradient = true};

  check::Spec& columns = add({.batch = 2, .rows = 130, .keys = 200, .heads_q = 4, .heads_k = 2});
  columns.tensors[check::Feature::bias] = {
      .shape = {2, 1, 1, 200}, .dtype = bfloat16, .gradient = true, .gradient_dtype = bfloat16};
  for (size_t n = 0, plain = specs.size(); n < plain; ++n) {
    if (backward_families(specs[n].dim).size() == 1) continue;
    specs.push_back(specs[n]);
    specs.back().family = Family::sm80;  // the plan takes sm90
  }
  return specs;
}

void run_backward(const check::Case& c, check::Place& place) {
  place.run(c.memory(), [&](const check::Place::Here& here) {
    backward(here(c.backward_args()), here(c.options()), here.stream());
  });
}

struct Bits {
  std::string name;
  std::vector<std::byte> bytes;
};
std::vector<Bits> gradients(const check::Case& c) {
  std::vector<Bits> all;
  for (const check::Output& output : c.outputs(true)) {
    all.push_back({output.name, output.array->memory().content()});
  }
  return all;
}

/// How many of `repeats` runs give some gradient other bits; `any_order`: but those that blocks add
/// to as they come.
int different(const check::Spec& spec, int repeats, bool any_order) {
  const check::Case c(spec);
  GpuPlace place;
  run(c, place);
  run_backward(c, place);
  const std::vector<Bits> first = gradients(c);
  int count = 0;
  for (int turn = 1; turn < repeats; ++turn) {
    c.poison(true);
    run_backward(c, place);
    const std::vector<Bits> now = gradients(c);
    bool same = true;
    for (size_t n = 0; n < first.size(); ++n) {
      const bool free = any_order && spec.added_as_they_come(first[n].name);
      same = same && (free || now[n].bytes == first[n].bytes);
    }
    count += same ? 0 : 1;
  }
  return count;
}

void expect_same_bits(bool deterministic) {
  constexpr int repeats = 300;
  const std::vector<check::Spec> specs = chosen();
  in_parallel(static_cast<int64_t>(specs.size()), [&](int64_t n) {
    check::Spec spec = specs[static_cast<size_t>(n)];
    spec.deterministic = deterministic;
    EXPECT_EQ(different(spec, repeats, !deterministic), 0)
        << "of " << repeats << ": " << spec.text();
  });
}

TEST(Gradients, AreRight) {
  std::vector<check::Spec> specs = chosen();
  for (check::Spec spec : chosen()) {
    spec.deterministic = true;
    specs.push_back(spec);
  }
  expect_right(specs);
}

TEST(Gradients, InOrderHaveTheSameBits) { expect_same_bits(true); }

TEST(Gradients, InAnyOrderDkAndDvHaveTheSameBits) { expect_same_bits(false); }

/// For compute-sanitizer, one after the other.
void expect_small_ones_right(Family family) {
  for (const bool deterministic : {false, true}) {
    for (const int64_t dim : {64, 128, 256, 512}) {
      check::Spec spec = problem({.rows = 70, .keys = 80, .heads_q = 2, .heads_k = 1, .dim = dim});
      spec.backward = spec.causal = true;
      spec.deterministic = deterministic;
      spec.dtype = dim == 128 ? float16 : bfloat16;
      spec.family = family;
      expect_right({spec});
    }
  }
}

TEST(Gradients, OfSmallProblemsOfSm80AreRight) { expect_small_ones_right(Family::sm80); }

TEST(Gradients, OfSmallProblemsOfTheGpusFamilyAreRight) {
  expect_small_ones_right(Family::automatic);
}

/// Lengths of three sequences as a call may have them in device memory.
struct Lie {
  std::vector<int32_t> cu_q, cu_k;
};

/// Any result will do, as long as nothing else is touched and no block waits for ever.
void expect_nothing_else_touched(const check::Spec& spec, const Lie& lie, GpuPlace& place) {
  check::Case c(spec);
  run(c, place);
  c.cu_seqlens_q = check::IntArray<int32_t>(lie.cu_q);
  c.cu_seqlens_k = check::IntArray<int32_t>(lie.cu_k);
  const uint64_t inputs = c.input_hash();
  run_backward(c, place);
  EXPECT_EQ(c.input_hash(), inputs) << spec.text();
  for (const check::Output& output : c.outputs(true)) {
    EXPECT_TRUE(output.array->memory().intact()) << output.name << ": " << spec.text();
  }
}

TEST(Gradients, UnderLengthsThatLieTouchNothingElse) {
  const std::vector<Lie> lies = {
      {{201, 140, 61, 0}, {180, 100, 50, 0}},  // falling
      {{0, 500, -500, 100}, {90, -9, 1000, 3}},
      {{INT_MIN, INT_MAX, INT_MIN, INT_MAX}, {INT_MAX, INT_MIN, INT_MAX, INT_MIN}},
      {{0, 201, 0, 201}, {0, 180, 0, 180}},  // over and over the same
      {{0, 1000, 0, 1000}, {0, 1000, 0, 1000}},
      {{-1, -1, -1, -1}, {-1, -1, -1, -1}},
  };
  for (const bool deterministic : {false, true}) {
    for (const int64_t dim : {64, 128, 256}) {
      check::Spec spec = problem({.batch = 3, .heads_q = 4, .heads_k = 2, .dim = dim});
      pack(spec.rows, {140, 0, 61});
      pack(spec.keys, {30, 0, 150});
      spec.backward = true;
      spec.deterministic = deterministic;
      spec.dtype = dim == 128 ? float16 : bfloat16;
      GpuPlace place;
      for (const Family family : backward_families(dim)) {
        spec.family = family;
        for (const Lie& lie : lies) expect_nothing_else_touched(spec, lie, place);
      }
    }
  }
}

/// The further outputs that a call asks for.
struct Besides {
  std::string name;
  int64_t heads_k = 8;
  DType dtype = bfloat16;
  bool deterministic = false;
  std::vector<int64_t> bias{};  ///< its shape
  int64_t length = 24576;       ///< with which dQ's sum is more than the pool's step
};

constexpr int64_t heads = 8, width = 128;

/// Beside the tensors a call takes what its plan says, and keeps it.
void expect_plans_workspace(const Besides& besides) {
  SCOPED_TRACE(besides.name);
  const int64_t length = besides.length;
  const std::vector<int64_t> rows = {1, length, heads, width},
                             keys = {1, length, besides.heads_k, width};
  const GpuTensor q = normal(rows, besides.dtype, 1), k = normal(keys, besides.dtype, 2),
                  v = normal(keys, besides.dtype, 3), dout = normal(rows, besides.dtype, 4),
                  out(rows, besides.dtype), lse({1, heads, length}, float32),
                  dq(rows, besides.dtype), dk(keys, besides.dtype), dv(keys, besides.dtype);
  const bool biased = !besides.bias.empty();
  const std::vector<int64_t> bias_shape = biased ? besides.bias : std::vector<int64_t>{1, 1, 1, 1};
  const GpuTensor bias = normal(bias_shape, float32, 5), dbias(bias_shape, float32);
  Options options;
  options.deterministic = besides.deterministic;
  if (biased) options.bias = bias;
  const BackwardArgs args{dout, q, k, v, out, lse, dq, dk, dv, {}, biased ? dbias : Tensor{}, {}};
  const auto bytes = static_cast<int64_t>(plan_backward(args, options).workspace_bytes());
  EXPECT_GE(bytes, heads * length * 4 * (width + 2));  // dQ, LSE and delta

  const GpuStream stream;
  forward(ForwardArgs{q, k, v, out, lse}, options, stream);
  backward(args, options, stream);  // loads the kernels, makes the pool
  stream.synchronize();
  release_memory();
  constexpr int64_t mebibyte = 1 << 20, pool_step = 64 * mebibyte;
  const auto free_bytes = [] { return static_cast<int64_t>(free_memory()); };
  const int64_t before = free_bytes();
  backward(args, options, stream);
  stream.synchronize();
  const int64_t taken = before - free_bytes();
  EXPECT_GE(taken, bytes);
  EXPECT_LE(taken, bytes + pool_step);
  for (int turn = 0; turn < 5; ++turn) backward(args, options, stream);
  stream.synchronize();
  EXPECT_LE(before - free_bytes(), taken + mebibyte);
}

/// How much each option adds is cuda_backward_plan_test's; that no kernel writes beyond, fa
/// check's.
TEST(Gradients, TakeThePlansWorkspace) {
  constexpr int64_t few = 2048;
  const Besides all[] = {
      {.name = "nothing"},
      {.name = "an order", .deterministic = true},
      {.name = "shared heads", .heads_k = 2},
      {.name = "float16", .dtype = float16},
      {.name = "a bias of its own", .bias = {1, heads, few, few}, .length = few},
      {.name = "a bias of all heads", .bias = {1, 1, few, few}, .length = few},
      {.name = "a bias of all rows", .bias = {1, heads, 1, few}, .length = few},
  };
  for (const Besides& besides : all) expect_plans_workspace(besides);
}

}  // namespace
}  // namespace fa::test
