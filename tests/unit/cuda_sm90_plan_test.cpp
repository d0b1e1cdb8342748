// Plans of family sm90, for what must hold of any tile.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "cuda_problems.hpp"
#include "plan/cuda/backward.hpp"
#include "plan/cuda/common.hpp"
#include "plan/cuda/forward.hpp"
#include "plan/cuda/sm90/kernels.hpp"

namespace fa {
namespace {

const GpuLimits& hopper() { return *known_gpu("sm_90a"); }

/// What the kernel and the device ask of every plan.
void expect_sound(const CudaForwardPlan& plan, const sm90::ForwardTile& t) {
  const Problem& p = plan.problem;
  const KernelSpec& main = plan.main();
  SCOPED_TRACE(to_text(plan));
  EXPECT_EQ(main.entry, "fa_sm90_forward");
  EXPECT_TRUE(t.groups >= 1 && t.groups <= 3);
  EXPECT_TRUE(t.keys >= 16 && t.keys <= 256 && t.keys % 16 == 0);
  EXPECT_GE(t.key_stages, 2);
  EXPECT_GE(t.value_stages, 2);
  EXPECT_TRUE(t.query_stages == 1 || t.query_stages == 2);
  // As setmaxnreg takes them.
  const int all =
      registers_per_sm / t.threads() / 8 * 8 * (1 + t.groups);  // of a lane in each group
  if (t.groups == 1) {
    EXPECT_LE(t.loader_registers + t.group_registers(), all);
  } else {
    EXPECT_EQ(t.loader_registers + t.groups * t.group_registers(), all);
  }
  EXPECT_TRUE(t.loader_registers >= 24 && t.loader_registers % 8 == 0);
  EXPECT_EQ(t.group_registers() % 8, 0);
  EXPECT_LE((p.head_dim_v + 15) / 16 * 16 / 2 + t.keys / 2 + t.keys / 4, t.group_registers() - 32);
  EXPECT_EQ(main.threads, t.threads());
  EXPECT_EQ(main.shared_bytes, shared_bytes(t, p));
  EXPECT_LE(main.shared_bytes, plan.gpu.shared_per_block);
  EXPECT_LE(plan.launches.front().grid.x, static_cast<unsigned>(plan.gpu.sm_count));
  EXPECT_EQ(plan.launches.front().over, Over::tiles);
  EXPECT_EQ(plan.shares > 0, t.shares);
  if (plan.shares > 0) return;  // cuda_cut_test.cpp
  const size_t partial =
      plan.splits > 1 ? plan.splits * plan.partial_rows * (p.head_dim_v + 1) * 4 : 0;
  EXPECT_EQ(plan.workspace_bytes, with_counter(plan, partial));
}

TEST(Sm90Plan, EveryHeadDimAndOptionFits) {
  std::vector<int64_t> head_dims;
  for (int64_t n = 64; n <= 256; n += 8) head_dims.push_back(n);
  for_each_option(head_dims, [](Problem& p, const char* option) {
    p.run.family = Family::sm90;
    expect_sound(plan_cuda_forward(p, hopper()), sm90::forward_tile(p));
    ASSERT_FALSE(HasFailure()) << option;
  });
}

TEST(Sm90Plan, ABiasComesByTheCopyEngineWhereItsRowsAreAligned) {
  for (const int64_t head_dim : {64, 128, 192, 256}) {
    for (const DType dtype : {bfloat16, float32}) {
      for (const bool per_row : {false, true}) {
        Problem p = problem(2, 8192, 8192, head_dim);
        give_bias(p, dtype, per_row);
        const CudaForwardPlan plan = plan_cuda_forward(p, hopper());
        const sm90::ForwardTile tile = sm90::forward_tile(p);
        EXPECT_GE(tile.bias_stages, 1) << head_dim;
        EXPECT_EQ(plan.bias_box_rows, per_row ? tile.rows() : 8);
        EXPECT_EQ(has(plan.main(), "bias_per_row"), per_row);
        p.score.bias_aligned = false;
        EXPECT_EQ(plan_cuda_forward(p, hopper()).bias_box_rows, 0);
      }
    }
  }
}

TEST(Sm90Plan, ATileOfTheCallersChoiceServes) {
  const sm90::ForwardTile tile{.groups = 3,
                               .keys = 80,
                               .key_stages = 4,
                               .value_stages = 4,
                               .loader_registers = 32,
                               .turns = false};
  const CudaForwardPlan plan = plan_cuda_forward(problem(2, 8192, 8192), hopper(),
                                                 {.tile = tile, .splits = {}, .section = {}});
  expect_sound(plan, tile);
  EXPECT_TRUE(has(plan.main(), "turns=false"));
}

/// A problem in which `heads` query heads share 4 key heads.
Problem grouped(int64_t heads, int64_t seqlen_q, int64_t head_dim = 128) {
  Problem p = problem(64, seqlen_q, 8192, head_dim);
  p.q.heads = heads;
  p.k.heads = 4;
  return p;
}

TEST(Sm90Plan, HeadsThatShareKeysShareATileWhereTheirRowsAreFew) {
  const struct {
    int64_t heads, seqlen_q, head_dim;
    int heads_of_tile, positions;
  } cases[] = {
      {32, 1, 128, 8, 16},   {32, 16, 128, 8, 16},
      {32, 64, 128, 8, 16},  {32, 65, 128, 1, 128},  // 5 tiles in place of 8
      {28, 1, 128, 7, 18},   {28, 1, 64, 7, 27},
      {512, 1, 256, 128, 1}, {516, 1, 256, 1, 128},  // more heads than a tile has rows
      {4, 1, 128, 1, 128},   {32, 0, 128, 1, 128},
  };
  for (const auto& c : cases) {
    const Problem p = grouped(c.heads, c.seqlen_q, c.head_dim);
    const CudaForwardPlan plan = plan_cuda_forward(p, hopper());
    SCOPED_TRACE(to_text(plan));
    expect_sound(plan, sm90::forward_tile(p));
    EXPECT_EQ(plan.cut.heads, c.heads_of_tile);
    EXPECT_EQ(plan.cut.rows, c.positions);
    const int64_t tiles = (c.seqlen_q + c.positions - 1) / c.positions;
    EXPECT_EQ(plan.blocks, 64 * c.heads / c.heads_of_tile * tiles);
  }
}

// Few rows of sequences of any length: one group has room for all heads of some of them.
TEST(Sm90Plan, BlocksShareTheKeysOfFewRows) {
  const struct {
    int64_t heads, seqlen_q, head_dim;
    int groups, positions;
    bool packed = false;
  } cases[] = {
      {32, 1, 128, 1, 8},  {32, 8, 128, 1, 8},  {32, 9, 128, 2, 16},        {28, 1, 64, 1, 9},
      {4, 64, 256, 1, 64}, {512, 1, 256, 2, 1}, {32, 80, 128, 2, 16, true},
  };
  for (const auto& c : cases) {
    Problem p = grouped(c.heads, c.seqlen_q, c.head_dim);
    p.batch = 4;
    p.k.used = true;
    p.q.packed = c.packed;
    if (c.packed) p.q.tokens = 100;  // one row of most sequences
    const sm90::ForwardTile tile = sm90::forward_tile(p);
    const CudaForwardPlan plan = plan_cuda_forward(p, hopper());
    SCOPED_TRACE(to_text(plan));
    EXPECT_TRUE(tile.shares);
    EXPECT_EQ(tile.groups, c.groups);
    EXPECT_EQ(plan.cut.rows, c.positions);
    expect_sound(plan, tile);
    p.run.batch_invariant = true;
    EXPECT_FALSE(sm90::forward_tile(p).shares);
  }
}

// A bundle of kernels serves any number of heads.
TEST(Sm90Plan, TheKernelOfSharedTilesIsOneForAllGroups) {
  const KernelSpec kernel = plan_cuda_forward(grouped(32, 1), hopper()).main();
  EXPECT_TRUE(has(kernel, "side_by_side"));
  for (const int64_t heads : {8, 12, 28, 256}) {
    EXPECT_EQ(plan_cuda_forward(grouped(heads, 1), hopper()).main(), kernel);
  }
}

TEST(Sm90Plan, WhatIsOneHeadsOwnLeavesATileToOneHead) {
  const struct {
    const char* option;
    void (*set)(Problem&);
  } options[] = {{"alibi", [](Problem& p) { p.score.alibi = true; }},
                 {"bias", [](Problem& p) { p.score.bias = true, p.score.bias_dtype = bfloat16; }},
                 {"dropout", [](Problem& p) { p.dropout_p = 0.5; }},
                 {"batch_invariant", [](Problem& p) { p.run.batch_invariant = true; }}};
  for (const auto& [option, set] : options) {
    Problem p = grouped(32, 1);
    set(p);
    EXPECT_EQ(plan_cuda_forward(p, hopper()).cut.heads, 1) << option;
  }
}

// The plan says why another family serves.
TEST(Sm90Plan, WhatItDoesNotServeGoesToSm80) {
  const struct {
    Problem problem;
    const char* arch;
    const char* why;
  } cases[] = {
      {problem(1, 64, 64), "sm_80", "it is for sm_90a, the GPU is sm_80"},
      {problem(1, 64, 64, 56), "sm_90a", "its head_dim is 64 to 256, this is 56, 56 of v"},
      {problem(1, 64, 64, 264), "sm_90a", "its head_dim is 64 to 256, this is 264, 264 of v"},
      {[] {
         Problem p = problem(1, 64, 64);
         p.alignment = 8;
         return p;
       }(),
       "sm_90a", "its copies are for rows aligned to 16 bytes, these are to 8"},
  };
  for (const auto& c : cases) {
    const GpuLimits& gpu = *known_gpu(c.arch);
    const CudaForwardPlan plan = plan_cuda_forward(c.problem, gpu);
    EXPECT_EQ(plan.main().entry, "fa_sm80_forward");
    EXPECT_NE(to_text(plan).find(std::string("not family sm90: ") + c.why), std::string::npos)
        << to_text(plan);
    Problem named = c.problem;
    named.run.family = Family::sm90;
    if (named.alignment < 16) {  // asked for, it copies them by hand
      EXPECT_EQ(plan_cuda_forward(named, gpu).main().entry, "fa_sm90_forward");
      continue;
    }
    try {
      plan_cuda_forward(named, gpu);
      ADD_FAILURE() << "accepted: " << c.why;
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::unsupported);
      EXPECT_EQ(std::string(error.what()),
                std::string("family: is sm90, which does not serve here: ") + c.why);
    }
  }
}

// The driver takes no map of a tensor whose rows lie in reverse.
TEST(Sm90Plan, NegativeStridesGoToSm80) {
  std::vector<uint16_t> numbers(size_t{100} * 64);
  const int64_t shape[] = {1, 100, 1, 64}, reversed[] = {6400, -64, 64, 1};
  Tensor forwards{numbers.data(), {1, 0}, 4, bfloat16, shape, nullptr, 0};
  Tensor backwards = forwards;
  backwards.strides = reversed;
  backwards.byte_offset = uint64_t{99} * 64 * 2;
  for (const auto& [k, entry] :
       {std::pair{&forwards, "fa_sm90_forward"}, std::pair{&backwards, "fa_sm80_forward"}}) {
    Tensor out = forwards;
    std::vector<uint16_t> results(numbers.size());
    out.data = results.data();
    Problem p = validate(ForwardArgs{forwards, *k, forwards, out, {}}, {}, Data::optional).problem;
    p.device = {cuda_device, 0};
    EXPECT_EQ(plan_cuda_forward(p, hopper()).main().entry, entry);
  }
}

TEST(Sm90Plan, ANamedFamilyServes) {
  Problem p = problem(1, 64, 64);
  EXPECT_EQ(plan_cuda_forward(p, hopper()).main().entry, "fa_sm90_forward");
  p.run.family = Family::sm80;
  EXPECT_EQ(plan_cuda_forward(p, hopper()).main().entry, "fa_sm80_forward");
}

TEST(Sm90Plan, BatchInvariantPlansDoNotDependOnTheRows) {
  for (const int64_t head_dim : {64, 128, 256}) {
    Problem p = problem(1, 100, 100, head_dim);
    p.run.batch_invariant = true;
    for (const int64_t seqlen : {1, 1024, 100'000}) {
      Problem other = p;
      other.batch = 3;
      other.q.seqlen = other.k.seqlen = seqlen;
      other.q.packed = other.k.packed = true;
      other.q.tokens = other.k.tokens = 3 * seqlen;
      other.alignment = 2;
      const CudaForwardPlan plan = plan_cuda_forward(other, hopper());
      EXPECT_EQ(plan.main().entry, "fa_sm90_forward");
      EXPECT_EQ(plan.cut, plan_cuda_forward(p, hopper()).cut);
      EXPECT_EQ(plan.splits, 1);
    }
  }
}

/// A problem of the backward pass that names the family.
Problem backward_problem(int64_t seqlen, int64_t head_dim, int64_t head_dim_v) {
  Problem p = problem(2, seqlen, seqlen, head_dim);
  p.pass = Pass::backward;
  p.head_dim_v = head_dim_v;
  p.run.family = Family::sm90;
  return p;
}

/// What the backward kernel, its kernels before and after, and the device ask of every plan.
void expect_sound(const CudaBackwardPlan& plan, const sm90::BackwardTile& t) {
  const Problem& p = plan.problem;
  SCOPED_TRACE(to_text(plan));
  const Launch& main = *std::ranges::find(plan.launches, Over::key_tiles, &Launch::over);
  EXPECT_EQ(main.kernel.entry, "fa_sm90_backward");
  EXPECT_EQ(main.kernel, plan.main());
  EXPECT_EQ(main.kernel.threads, t.threads);
  EXPECT_EQ(main.kernel.shared_bytes, shared_bytes(t, p.head_dim, p.head_dim_v));
  EXPECT_LE(main.kernel.shared_bytes, plan.gpu.shared_per_block);
  EXPECT_LE(main.grid.x, static_cast<unsigned>(plan.gpu.sm_count));
  EXPECT_LE(main.grid.x, static_cast<unsigned>(plan.tiles_of_launch));
  EXPECT_EQ(plan.tiles_of_launch * main.sequences * main.heads, plan.key_blocks * plan.parts);
  EXPECT_TRUE(t.rows == 64 || t.rows == 128);
  EXPECT_TRUE(t.key_stages == 1 || t.key_stages == 2);
  EXPECT_TRUE(t.value_stages == 1 || t.value_stages == 2);
  // dK, dV, S and dP, or dK, dV, dQ and dS, with room for addresses: 240 registers of a thread.
  const int64_t sums = pad16(p.head_dim) / 2 + pad16(p.head_dim_v) / 2;
  EXPECT_LE(sums + t.rows, 208);
  EXPECT_EQ(plan.cut.threads, t.other_threads);
  EXPECT_EQ(plan.cut.columns % 32, 0);
  EXPECT_TRUE(plan.cut.columns >= p.head_dim && plan.cut.value_columns >= p.head_dim_v);
  // The counter of tiles, aligned as it is.
  const BackwardWorkspace& bytes = plan.workspace;
  EXPECT_EQ(bytes.counter, 16);
  EXPECT_EQ((bytes.dq_sum + bytes.lse + bytes.delta) % 16, 0);
  EXPECT_EQ(static_cast<int64_t>(plan.workspace_bytes), bytes.all());
  for (const Launch& launch : plan.launches) {
    EXPECT_LE(launch.kernel.shared_bytes, plan.gpu.shared_per_block) << launch.kernel.entry;
  }
}

TEST(Sm90BackwardPlan, EveryHeadDimAndOptionFits) {
  std::vector<int64_t> head_dims;
  for (int64_t n = 64; n <= 128; n += 8) head_dims.push_back(n);
  for_each_option(head_dims, [](Problem& p, const char* option) {
    p.pass = Pass::backward;
    p.run.family = Family::sm90;
    for (const bool deterministic : {false, true}) {
      p.run.deterministic = deterministic;
      expect_sound(plan_cuda_backward(p, hopper()), sm90::backward_tile(p));
    }
    ASSERT_FALSE(HasFailure()) << option;
  });
}

TEST(Sm90BackwardPlan, ATileOfTheCallersChoiceServes) {
  Problem p = backward_problem(4096, 64, 64);
  p.run.family = Family::automatic;
  const sm90::BackwardTile tile{.rows = 64, .key_stages = 2};
  const CudaBackwardPlan plan = plan_cuda_backward(p, hopper(), {.tile = tile});
  expect_sound(plan, tile);
  EXPECT_TRUE(has(plan.main(), "key_stages=2"));
}

// Its turns pass in the order of rows.
TEST(Sm90BackwardPlan, InOrderNoWalkIsRotated) {
  Problem p = backward_problem(4096, 64, 64);
  EXPECT_TRUE(has(plan_cuda_backward(p, hopper()).main(), "rotates"));
  p.run.deterministic = true;
  EXPECT_FALSE(has(plan_cuda_backward(p, hopper()).main(), "rotates"));
}

// Each group adds its part of dQ in turns of its own.
TEST(Sm90BackwardPlan, InOrderEachGroupHasATurn) {
  Problem p = backward_problem(4096, 64, 64);
  p.run.deterministic = true;
  const CudaBackwardPlan plan = plan_cuda_backward(p, hopper());
  EXPECT_EQ(plan.workspace.dq_turns, 2 * plan.workspace.lse / plan.cut.rows);
}

/// How the sums of dQ come to be 0 before the first addition to them.
TEST(Sm90BackwardPlan, SumsOfDqBegin) {
  const auto begin = [](int64_t seqlen, int64_t head_dim,
                        const std::function<void(Problem&)>& change) -> std::string {
    Problem p = backward_problem(seqlen, head_dim, head_dim);
    change(p);
    const CudaBackwardPlan plan = plan_cuda_backward(p, *known_gpu("sm_90a"));
    const bool stores = has(plan.main(), "first_stores"), clears = has(plan.main(), "clears_sums");
    EXPECT_FALSE(stores && clears);
    EXPECT_EQ(plan.workspace.dq_turns > 0, stores || clears || p.run.deterministic);
    return stores ? "first stores" : clears ? "cleared ahead" : "set before";
  };
  const auto nothing = [](Problem&) {};
  const auto causal = [](Problem& p) { p.score.window_right = 0; };
  const auto window = [](Problem& p) { p.score.window_left = 100; };
  const auto packed = [](Problem& p) { p.q.packed = p.k.packed = true; };
  const auto in_order = [](Problem& p) { p.run.deterministic = true; };
  for (const int64_t head_dim : {64, 128}) {
    EXPECT_EQ(begin(4096, head_dim, causal), "first stores");
    EXPECT_EQ(begin(4096, head_dim, window), "first stores");
    EXPECT_EQ(begin(4096, head_dim, packed), "first stores");
  }
  EXPECT_EQ(begin(2048, 64, nothing), "first stores");
  EXPECT_EQ(begin(4096, 64, nothing), "set before");
  EXPECT_EQ(begin(512, 128, nothing), "cleared ahead");
  EXPECT_EQ(begin(4096, 128, nothing), "cleared ahead");
  EXPECT_EQ(begin(4096, 256, nothing), "cleared ahead");
  EXPECT_EQ(begin(2048, 256, causal), "cleared ahead");
  EXPECT_EQ(begin(4096, 256, causal), "set before");
  for (const int64_t head_dim : {64, 128, 256}) {
    EXPECT_EQ(begin(512, head_dim, in_order), "set before");
  }
}

TEST(Sm90BackwardPlan, HeadDim64HasWiderTiles) {
  EXPECT_EQ(plan_cuda_backward(backward_problem(4096, 64, 64), hopper()).cut.rows, 128);
  EXPECT_EQ(plan_cuda_backward(backward_problem(4096, 64, 72), hopper()).cut.rows, 64);
  // The groups share the columns of dQ: whole panels of 64, or half of one each.
  EXPECT_EQ(plan_cuda_backward(backward_problem(4096, 72, 64), hopper()).cut.columns, 128);
  EXPECT_EQ(plan_cuda_backward(backward_problem(4096, 64, 72), hopper()).cut.columns, 64);
}

// Clusters of two blocks, whose grid is a multiple of two.
TEST(Sm90BackwardPlan, WideHeadsFit) {
  constexpr sm90::WideBackwardTile t;
  for (int64_t head_dim = 64; head_dim <= 256; head_dim += 8) {
    for (int64_t head_dim_v = 64; head_dim_v <= 256; head_dim_v += 8) {
      if (std::max(head_dim, head_dim_v) <= 128) continue;
      for (const int64_t seqlen : {1, 65, 1000}) {
        const CudaBackwardPlan plan = plan_cuda_backward(
            backward_problem(seqlen, head_dim, head_dim_v), hopper(), {.parts = 1});
        SCOPED_TRACE(to_text(plan));
        const Launch& main = *std::ranges::find(plan.launches, Over::key_tiles, &Launch::over);
        EXPECT_EQ(main.kernel.entry, "fa_sm90_wide_backward");
        EXPECT_NE(main.kernel.program.find("__cluster_dims__(2, 1, 1)"), std::string::npos);
        EXPECT_EQ(main.kernel.shared_bytes, shared_bytes(t, head_dim, head_dim_v));
        EXPECT_EQ(main.grid.x % t.cluster, 0u);
        EXPECT_LE(main.grid.x, static_cast<unsigned>(t.cluster * plan.tiles_of_launch));
        EXPECT_LE(main.grid.x, static_cast<unsigned>(plan.gpu.sm_count));
        EXPECT_EQ(plan.cut.columns % 64, 0);
        EXPECT_TRUE(plan.cut.columns >= head_dim && plan.cut.value_columns >= head_dim_v);
        for (const Launch& launch : plan.launches) {
          EXPECT_LE(launch.kernel.shared_bytes, plan.gpu.shared_per_block) << launch.kernel.entry;
        }
        ASSERT_FALSE(HasFailure());
      }
    }
  }
}

// A counter for each part of dQ's columns that a group of its own adds to.
TEST(Sm90BackwardPlan, WideHeadsTakeTurns) {
  Problem p = backward_problem(4096, 256, 256);
  EXPECT_TRUE(has(plan_cuda_backward(p, hopper()).main(), "rotates"));
  p.run.deterministic = true;
  p.run.family = Family::automatic;
  const CudaBackwardPlan plan = plan_cuda_backward(p, hopper());
  EXPECT_EQ(plan.main().entry, "fa_sm90_wide_backward");
  EXPECT_FALSE(has(plan.main(), "rotates"));
  EXPECT_EQ(plan.workspace.dq_turns, 4 * plan.workspace.lse / plan.cut.rows);
}

// Their kernel stores dK and dV, and cannot add them to those of other heads.
TEST(Sm90BackwardPlan, ClustersNeverShareKeys) {
  Problem p = backward_problem(8192, 256, 256);
  p.batch = 1;  // few tiles for a GPU, for which blocks alone would share the keys
  p.q.heads = 64;
  p.k.heads = 1;
  for (const std::optional<int> parts : {std::optional<int>(), std::optional<int>(2)}) {
    const CudaBackwardPlan plan = plan_cuda_backward(p, hopper(), {.parts = parts});
    EXPECT_EQ(plan.parts, 1);
    EXPECT_EQ(plan.part_heads, 64);
    EXPECT_EQ(plan.workspace.key_turns, 0);
    const Launch& main = *std::ranges::find(plan.launches, Over::key_tiles, &Launch::over);
    EXPECT_EQ(main.grid.x % 2, 0U);
    EXPECT_LE(main.grid.x, static_cast<unsigned>(hopper().sm_count));
  }
}

// Other rows it copies by hand, where it is named.
TEST(Sm90BackwardPlan, ServesAlignedRows) {
  Problem p = backward_problem(4096, 128, 128);
  p.run.family = Family::automatic;
  EXPECT_EQ(plan_cuda_backward(p, hopper()).main().entry, "fa_sm90_backward");
  p.alignment = 8;
  const CudaBackwardPlan plan = plan_cuda_backward(p, hopper());
  EXPECT_EQ(plan.main().entry, "fa_sm80_backward");
  EXPECT_NE(to_text(plan).find("not family sm90: its copies are for rows aligned to 16 bytes"),
            std::string::npos)
      << to_text(plan);
  p.run.family = Family::sm90;
  EXPECT_EQ(plan_cuda_backward(p, hopper()).main().entry, "fa_sm90_backward");
}

TEST(Sm90BackwardPlan, WhatItDoesNotServeIsRefused) {
  Problem capped = backward_problem(64, 64, 136);
  capped.score.softcap = 30;
  capped.score.bias = capped.wants.dbias = true;
  const struct {
    Problem problem;
    const char* arch;
    const char* why;
  } cases[] = {
      {backward_problem(64, 128, 128), "sm_80", "it is for sm_90a, the GPU is sm_80"},
      {backward_problem(64, 56, 64), "sm_90a", "its head_dim is 64 to 256, this is 56, 64 of v"},
      {capped, "sm_90a", "it has no gradient of a bias beside a softcap for a head_dim beyond 128"},
  };
  for (const auto& c : cases) {
    try {
      plan_cuda_backward(c.problem, *known_gpu(c.arch));
      ADD_FAILURE() << "accepted: " << c.why;
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::unsupported);
      EXPECT_EQ(std::string(error.what()),
                std::string("family: is sm90, which does not serve here: ") + c.why);
    }
  }
}

// Each launch hands its own tiles out, from the one counter.
TEST(Sm90BackwardPlan, ABiasInOrderIsSummedLaunchAfterLaunch) {
  Problem p = backward_problem(512, 128, 128);
  p.score.bias = p.wants.dbias = p.score.bias_per_row = p.run.deterministic = true;
  const CudaBackwardPlan plan = plan_cuda_backward(p, hopper());
  EXPECT_TRUE(plan.by_sequence && plan.by_head);
  EXPECT_EQ(plan.tiles_of_launch, 512 / 128);
  expect_sound(plan, sm90::backward_tile(p));
}

}  // namespace
}  // namespace fa
