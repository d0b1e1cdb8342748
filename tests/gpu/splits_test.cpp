// Few rows and many keys: the keys are split among blocks, and a second kernel joins the parts.
#include <gtest/gtest.h>

#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

/// One or a few rows of each option, each with enough keys for several splits.
std::vector<check::Spec> split_problems() {
  std::vector<check::Spec> specs;
  const auto add = [&](int64_t rows, int64_t keys, int64_t dim, int64_t dim_v = 0) -> check::Spec& {
    return specs.emplace_back(problem({.batch = 2,
                                       .rows = rows,
                                       .keys = keys,
                                       .heads_q = 4,
                                       .heads_k = 2,
                                       .dim = dim,
                                       .dim_v = dim_v}));
  };
  add(1, 4099, 64);
  add(5, 3000, 128).dtype = float16;
  add(3, 2500, 256);
  add(2, 2500, 72, 136).lse = false;
  add(140, 1500, 64).causal = true;  // two tiles of rows
  check::Spec& empty = add(3, 2600, 64);
  use(empty.keys, {2600, 0});
  empty.dtype = float16;
  check::Spec& used = add(4, 2600, 128);
  use(used.keys, {700, 2599});
  use(used.rows, {4, 1});
  used.tensors[check::Feature::sinks] = {.shape = {used.heads_q}};
  check::Spec& options = add(2, 2100, 64);
  options.softcap = 3;
  options.tensors[check::Feature::alibi] = {.shape = {4}};
  options.tensors[check::Feature::bias] = {
      .shape = {2, 4, 2, 2100}, .dtype = bfloat16, .masks = true};
  check::Spec& dropout = add(7, 2100, 64);
  dropout.dropout_p = 0.4;
  dropout.causal = true;
  check::Spec& packed = add(0, 0, 128);
  pack(packed.rows, {3, 2}, 2);
  pack(packed.keys, {2900, 1}, 5);
  check::Spec& unaligned = add(2, 2100, 40);
  unaligned.strided = unaligned.unaligned = true;
  unaligned.alignment = 2;
  return specs;
}

TEST(Splits, AreRight) { expect_right(split_problems()); }

// A batch-invariant call is not split: what is left is a counter, where blocks claim their tiles.
TEST(Splits, HaveAWorkspaceAndBatchInvariantCallsHaveNone) {
  GpuPlace place;
  for (check::Spec spec : split_problems()) {
    EXPECT_GT(workspace_bytes(check::Case(spec), place), 16u) << spec.text();
    spec.batch_invariant = true;
    EXPECT_LE(workspace_bytes(check::Case(spec), place), 16u) << spec.text();
  }
}

}  // namespace
}  // namespace fa::test
