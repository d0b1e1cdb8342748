// Head dims, alignments and strides: every class of tile, every width of copy. Inputs lie between
// NaN, outputs between canaries.
#include <gtest/gtest.h>

#include <utility>

#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

TEST(Layout, HeadDims) {
  std::vector<check::Spec> specs;
  const std::vector<std::pair<int64_t, int64_t>> dims = {
      {8, 8},     {24, 24},   {40, 40},   {72, 72},   {96, 96}, {104, 104}, {136, 136}, {168, 168},
      {192, 128}, {200, 200}, {232, 232}, {256, 256}, {8, 256}, {256, 8},   {64, 136},  {128, 40},
      {264, 264}, {392, 392}, {512, 512}, {8, 264},   {504, 8}, {576, 512}};
  for (const auto& [dim, dim_v] : dims) {
    check::Spec& spec = specs.emplace_back(problem(
        {.rows = 150, .keys = 140, .heads_q = 4, .heads_k = 2, .dim = dim, .dim_v = dim_v}));
    spec.dtype = specs.size() % 2 == 0 ? float16 : bfloat16;
    spec.causal = true;
  }
  expect_right(specs);
}

TEST(Layout, WideHeadsWithOptions) {
  std::vector<check::Spec> specs;
  for (const auto& [dim, dim_v] : {std::pair<int64_t, int64_t>{272, 392}, {512, 512}, {576, 512}}) {
    const auto add = [&]() -> check::Spec& {
      return specs.emplace_back(
          problem({.batch = 2, .rows = 40, .keys = 90, .heads_q = 4, .dim = dim, .dim_v = dim_v}));
    };
    check::Spec& packed = add();
    pack(packed.rows, {33, 5}, 4);
    pack(packed.keys, {70, 80}, 2);
    packed.causal = true;
    check::Spec& used = add();
    used.dtype = float16;
    use(used.keys, {90, 31});
    used.dropout_p = 0.5;
    check::Spec& decode = add();
    decode.rows = problem({.batch = 2, .rows = 1}).rows;
    decode.keys = problem({.batch = 2, .keys = 3000}).keys;
    decode.tensors[check::Feature::sinks] = {.shape = {decode.heads_q}};
  }
  expect_right(specs);
}

/// Several tiles of rows and of keys, none of them whole; every option, on both sides of 256 and of
/// 384 columns.
TEST(Layout, WideHeadsHaveGradients) {
  std::vector<check::Spec> specs;
  const auto add = [&](int64_t dim, int64_t dim_v) -> check::Spec& {
    check::Spec& spec = specs.emplace_back(problem({.batch = 2,
                                                    .rows = 75,
                                                    .keys = 90,
                                                    .heads_q = 2,
                                                    .heads_k = 1,
                                                    .dim = dim,
                                                    .dim_v = dim_v}));
    spec.backward = true;
    return spec;
  };
  check::Spec& packed = add(512, 512);
  pack(packed.rows, {33, 75}, 4);
  pack(packed.keys, {70, 90}, 2);
  packed.causal = true;
  check::Spec& ordered = add(264, 512);
  ordered.dtype = float16;
  ordered.deterministic = ordered.dlse = true;
  ordered.window_left = 40;
  use(ordered.rows, {75, 31});
  use(ordered.keys, {90, 31});
  check::Spec& options = add(384, 40);
  options.dtype = float16;
  options.softcap = 5;
  options.dropout_p = 0.5;
  options.strided = options.unaligned = true;
  options.tensors[check::Feature::alibi] = {.shape = {2}};
  options.tensors[check::Feature::bias] = {.shape = {2, 1, 75, 90}, .gradient = true};
  options.tensors[check::Feature::sinks] = {.shape = {2}, .gradient = true};
  check::Spec& columns = add(576, 512);
  columns.batch_invariant = true;
  columns.tensors[check::Feature::bias] = {.shape = {2, 2, 1, 90}, .gradient = true};
  add(224, 224).causal = true;  // a row of 224 numbers has half of a wider one's lanes
  expect_right(specs);
}

TEST(Layout, AlignmentsAndStrides) {
  std::vector<check::Spec> specs;
  for (const int64_t dim : {40, 64, 128, 256}) {
    for (const int32_t alignment : {16, 8, 4, 2}) {
      check::Spec& spec = specs.emplace_back(
          problem({.batch = 2, .rows = 75, .keys = 90, .heads_q = 4, .heads_k = 2, .dim = dim}));
      spec.dtype = alignment % 8 == 0 ? bfloat16 : float16;
      spec.strided = true;
      spec.unaligned = alignment < 16;
      spec.alignment = alignment < 16 ? alignment : 0;
      use(spec.rows, {75, 31});
      use(spec.keys, {17, 90});
      // The family that serves then may be another for some alignments.
      specs.push_back(spec);
      specs.back().batch_invariant = true;
    }
  }
  expect_right(specs);
}

/// Rows of no sequence, and those beyond a sequence's used rows: 0 and -inf, never what was there.
TEST(Layout, RowsThatDoNotCount) {
  std::vector<check::Spec> specs;
  for (const int64_t dim : {64, 128, 256}) {
    check::Spec& spec =
        specs.emplace_back(problem({.batch = 4, .heads_q = 4, .heads_k = 2, .dim = dim}));
    pack(spec.rows, {140, 0, 5, 64}, 150);
    pack(spec.keys, {200, 9, 0, 70}, 30);
    use(spec.rows, {135, 0, 5, 1});
    use(spec.keys, {190, 0, 0, 70});
    spec.strided = dim == 128;
    if (dim == 256) {
      spec.tensors[check::Feature::sinks] = {.shape = {spec.heads_q}, .dtype = bfloat16};
    }
  }
  expect_right(specs);
}

}  // namespace
}  // namespace fa::test
