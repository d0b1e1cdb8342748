// Terms of a score that family sm90 forms in ways of its own. Tiles of a bias come by the copy
// engine where its rows are aligned to 16 bytes. Under a causal mask the exponent's multiply-add
// has ALiBi.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "gpu/gpu.hpp"
#include "gpu/repeats.hpp"

namespace fa::test {
namespace {

using check::Feature;

bool names_sm90() { return backward_families(64).size() > 1; }

/// Every extent that a bias may lack, both its formats, and each option that meets it.
std::vector<check::Spec> biased_problems() {
  std::vector<check::Spec> specs;
  constexpr int64_t batch = 2, heads = 4;
  const auto add = [&](int64_t rows, int64_t keys, int64_t dim, std::vector<int64_t> shape,
                       DType dtype, int64_t dim_v = 0) -> check::Spec& {
    check::Spec& spec = specs.emplace_back(problem({.batch = batch,
                                                    .rows = rows,
                                                    .keys = keys,
                                                    .heads_q = heads,
                                                    .heads_k = 2,
                                                    .dim = dim,
                                                    .dim_v = dim_v}));
    if (dtype == float16) spec.dtype = float16;
    shape[2] = shape[2] == 0 ? rows : shape[2];
    shape.push_back(keys);
    spec.tensors[Feature::bias] = {.shape = shape, .dtype = dtype};
    return spec;
  };
  add(200, 264, 128, {batch, heads, 0}, bfloat16).causal = true;
  add(330, 200, 64, {1, heads, 0}, bfloat16).tensors[Feature::bias].masks = true;
  add(200, 520, 128, {batch, 1, 0}, float32).causal = true;
  add(200, 300, 64, {1, 1, 0}, float32);
  add(150, 264, 128, {batch, 1, 1}, bfloat16).causal = true;
  add(300, 516, 64, {1, heads, 1}, float32);
  add(150, 200, 256, {1, heads, 0}, bfloat16);
  add(150, 132, 256, {1, 1, 1}, float32).causal = true;
  add(140, 140, 256, {1, heads, 0}, float32);
  add(260, 264, 80, {1, heads, 0}, float16).softcap = 3;
  check::Spec& window = add(400, 400, 128, {1, heads, 0}, bfloat16);
  window.window_left = 70;
  window.window_right = 3;
  check::Spec& used = add(200, 264, 128, {batch, heads, 0}, bfloat16);
  use(used.rows, {200, 30});
  use(used.keys, {263, 0});
  used.strided = true;
  check::Spec& dropout = add(150, 400, 192, {1, heads, 0}, bfloat16, 128);
  dropout.dropout_p = 0.3;
  dropout.tensors[Feature::alibi] = {.shape = {heads}};
  check::Spec& split = add(3, 3000, 128, {1, heads, 0}, bfloat16);
  split.tensors[Feature::sinks] = {.shape = {heads}};
  add(1, 3000, 64, {1, heads, 0}, float32).causal = true;
  return specs;
}

TEST(Bias, ByTheCopyEngineIsRight) { expect_right(biased_problems()); }

TEST(Bias, TakesTheCopyEngineWhereItsRowsAreAligned) {
  if (!names_sm90()) GTEST_SKIP() << "the GPU is no Hopper";
  GpuPlace place;
  for (const check::Spec& spec : biased_problems()) {
    const std::string text = plan_text(check::Case(spec), place);
    EXPECT_NE(text.find(" of the bias"), std::string::npos) << spec.text() << text;
  }
  check::Spec odd = problem({.rows = 200, .keys = 263, .heads_q = 2, .dim = 128});
  odd.tensors[Feature::bias] = {.shape = {1, 2, 200, 263}, .dtype = bfloat16};
  const std::string text = plan_text(check::Case(odd), place);
  EXPECT_EQ(text.find(" of the bias"), std::string::npos) << text;
  expect_right({odd});
}

// A plan that brings the bias by the copy engine refuses one that this cannot bring; others take
// any.
TEST(Bias, APlanTakesWhatItsKernelTakes) {
  constexpr int64_t heads = 2, rows = 70, keys = 264;
  const GpuTensor q = normal({1, rows, heads, 128}, bfloat16, 1),
                  k = normal({1, keys, heads, 128}, bfloat16, 2), out(q.shape(), bfloat16),
                  room = normal({2, heads, rows, keys}, bfloat16, 3);
  const Device device{2, 0};
  const View bias(room.data(), bfloat16, {1, heads, rows, keys}, {}, device),
      shifted(static_cast<std::byte*>(room.data()) + 2, bfloat16, {1, heads, rows, keys}, {},
              device),
      repeated(room.data(), bfloat16, {1, heads, rows, keys}, {0, keys, 0, 1}, device);
  Options options;
  options.bias = bias;
  for (const Family family : {Family::automatic, Family::sm80}) {
    options.family = family;
    options.bias = bias;
    const ForwardArgs args{q, k, k, out, {}};
    const Plan plan = plan_forward(args, options);
    const GpuMemory workspace(plan.workspace_bytes() + 1);
    const bool copies = plan.text().find(" of the bias") != std::string::npos;
    EXPECT_EQ(copies, names_sm90() && family == Family::automatic);
    for (const View& other : {bias, shifted, repeated}) {
      options.bias = other;
      const auto run = [&] { plan.run(args, options, workspace.data(), workspace.size()); };
      if (copies && other.data == shifted.data) {
        EXPECT_NE(error_of(run).find("plan: was made for a bias"), std::string::npos);
      } else if (copies && other.strides != nullptr && other.strides[2] == 0) {
        EXPECT_NE(error_of(run).find("plan: was made for a bias"), std::string::npos);
      } else {
        EXPECT_NO_THROW(run());
      }
    }
  }
  gpu().synchronize(nullptr);
}

// A step's tile of the bias has its place to itself until all groups have read it.
TEST(Bias, LaunchesKeepTheirBits) {
  if (!names_sm90()) GTEST_SKIP() << "the GPU is no Hopper";
  for (const check::Spec& spec : biased_problems()) {
    const check::Case c(spec);
    EXPECT_EQ(launches_that_differ(c, {{&c.out}, {&c.lse}}), 0) << spec.text();
  }
}

// With other options; StaleMaximum has slopes of both signs.
TEST(Alibi, OfCausalRowsIsRight) {
  std::vector<check::Spec> specs;
  for (const int64_t dim : {64, 128, 256}) {
    check::Spec& spec = specs.emplace_back(
        problem({.batch = 2, .rows = 300, .keys = 700, .heads_q = 6, .heads_k = 2, .dim = dim}));
    spec.causal = true;
    spec.dtype = dim == 64 ? float16 : bfloat16;
    spec.tensors[Feature::alibi] = {.shape = {6}};
    check::Spec& more = specs.emplace_back(spec);
    more.scale = dim == 128 ? -0.3 : 0.05;
    more.dropout_p = dim == 256 ? 0.2 : 0;
    use(more.keys, {699, 333});
    if (dim == 64) more.window_left = 400;
  }
  expect_right(specs);
}

}  // namespace
}  // namespace fa::test
