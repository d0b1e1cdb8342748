// Plans of backward passes on CUDA devices: pure functions, no GPU needed.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "plan/cuda/backward.hpp"
#include "plan/cuda/preset.hpp"

namespace fa {
namespace {

Problem problem(int64_t batch, int64_t seqlen, int64_t head_dim, int64_t head_dim_v) {
  Problem p;
  p.pass = Pass::backward;
  p.device = {cuda_device, 0};
  p.dtype = bfloat16;
  p.batch = batch;
  p.q.heads = 8;
  p.k.heads = 2;
  p.head_dim = head_dim;
  p.head_dim_v = head_dim_v;
  p.q.seqlen = p.k.seqlen = seqlen;
  p.q.tokens = p.k.tokens = batch * seqlen;
  p.score.scale = 0.125;
  p.wants.lse = true;
  p.run.family = Family::sm80;  // whose tiles these tests know
  return p;
}

TEST(CudaBackwardPlan, EveryHeadDimFitsEveryGpu) {
  for (const GpuLimits& gpu : known_gpus()) {
    for (int64_t head_dim = 8; head_dim <= 576; head_dim += 8) {
      for (const int64_t head_dim_v : {int64_t{8}, head_dim, int64_t{256}, int64_t{512}}) {
        if (head_dim > 512 && (head_dim < 576 || head_dim_v != 512)) continue;
        for (const int64_t window_right : {-1, 0}) {
          Problem p = problem(2, 1000, head_dim, head_dim_v);
          p.score.window_right = window_right;
          const CudaBackwardPlan plan = plan_cuda_backward(p, gpu);
          const BackwardTile t = backward_tile(p, gpu);
          EXPECT_TRUE(fits(t, head_dim, head_dim_v, gpu));
          EXPECT_TRUE(plan.cut.keys == t.keys && plan.cut.threads == 32 * t.warps);
          EXPECT_EQ(plan.main().shared_bytes, shared_bytes(t, head_dim, head_dim_v));
          EXPECT_GE(padded_columns(t, head_dim), head_dim);
          EXPECT_LE(32 * t.warps * t.min_blocks, gpu.threads_per_sm);
          const int score_warps = t.warps / t.sum_warps;  // with different parts of S
          EXPECT_EQ(t.warps % t.sum_warps, 0);
          EXPECT_EQ(padded_columns(t, head_dim) % (16 * t.sum_warps), 0);
          EXPECT_EQ(score_warps % t.row_warps, 0);
          EXPECT_EQ(t.rows / t.row_warps % 16, 0);
          EXPECT_EQ(t.keys / (score_warps / t.row_warps) % 16, 0);
        }
      }
    }
  }
}

TEST(CudaBackwardPlan, TilesCoverRowsAndKeys) {
  const GpuLimits& gpu = *known_gpu("sm_90a");
  Problem p = problem(3, 1000, 128, 128);
  CudaBackwardPlan plan = plan_cuda_backward(p, gpu);
  EXPECT_GE(plan.key_tiles * plan.cut.keys, 1000);
  EXPECT_EQ(plan.key_blocks, plan.key_tiles * 3 * 2);
  EXPECT_EQ(plan.row_blocks, plan.row_tiles * 3 * 8);
  EXPECT_EQ(plan.padded_rows, 3 * plan.row_tiles * plan.cut.rows);
  p.q.packed = p.k.packed = true;
  p.q.tokens = p.k.tokens = 1777;
  plan = plan_cuda_backward(p, gpu);
  // Each of three sequences may leave a tile unfilled, and so may the tokens behind them.
  EXPECT_GE(plan.key_tiles * plan.cut.keys, 1777 + 3 * plan.cut.keys);
  EXPECT_EQ(plan.key_blocks, plan.key_tiles * 2);
  EXPECT_GE(plan.padded_rows, 1777 + 3 * plan.cut.rows);
}

TEST(CudaBackwardPlan, TheWorkspaceIsLinearAndSaysWhatItIsFor) {
  const GpuLimits& gpu = *known_gpu("sm_90a");
  Problem p = problem(1, 4096, 128, 128);
  const CudaBackwardPlan plan = plan_cuda_backward(p, gpu);
  // dQ, LSE and delta; dK and dV, which two blocks share for want of tiles, and their counters.
  const int64_t shared_keys = 2 * 4096 * 4 * (128 + 128) + 2 * 4096 / 64 * 4;
  EXPECT_EQ(plan.workspace.all(), 8 * 4096 * 4 * (128 + 2) + shared_keys);
  p.run.deterministic = true;
  const CudaBackwardPlan ordered = plan_cuda_backward(p, gpu);
  EXPECT_EQ(ordered.workspace.all() - plan.workspace.all(), 8 * 4096 / 64 * 4);
  EXPECT_NE(ordered.main(), plan.main());
  p.dtype = float16;
  const CudaBackwardPlan ranged = plan_cuda_backward(p, gpu);
  EXPECT_EQ(ranged.workspace.all() - ordered.workspace.all(), 4 * (2 * 8 + 2));
  EXPECT_NE(ranged.kernel("fa_backward_values"), nullptr);
  EXPECT_EQ(ordered.kernel("fa_backward_values"), nullptr);
  const std::string text = to_text(ranged);
  EXPECT_NE(text.find("workspace: " + std::to_string(ranged.workspace.all())), std::string::npos)
      << text;
}

TEST(CudaBackwardPlan, ABiasTakesNothingASumOfItsSizeOrOneOfItsKeys) {
  const GpuLimits& gpu = *known_gpu("sm_90a");
  Problem p = problem(2, 512, 64, 64);
  p.score.bias = p.wants.dbias = true;
  const auto sums = [&](bool batch, bool head, bool row) {
    p.score.bias_per_batch = batch;
    p.score.bias_per_head = head;
    p.score.bias_per_row = row;
    return plan_cuda_backward(p, gpu).workspace.dbias_sum;
  };
  EXPECT_EQ(sums(true, true, true), 0);
  EXPECT_EQ(sums(false, true, true), 8 * 512 * 512 * 4);
  EXPECT_EQ(sums(true, false, true), 2 * 512 * 512 * 4);
  EXPECT_EQ(sums(false, false, true), 512 * 512 * 4);
  // A warp for each half of a tile's rows has a sum of its own.
  EXPECT_EQ(sums(false, false, false), 2 * 2 * 8 * 512 * 4);
  EXPECT_EQ(sums(true, true, false), 2 * 2 * 8 * 512 * 4);
}

TEST(CudaBackwardPlan, ABiasInOrderIsSummedLaunchAfterLaunch) {
  const GpuLimits& gpu = *known_gpu("sm_90a");
  Problem p = problem(2, 512, 64, 64);
  p.score.bias = p.wants.dbias = p.score.bias_per_row = p.run.deterministic = true;
  CudaBackwardPlan plan = plan_cuda_backward(p, gpu);
  EXPECT_TRUE(plan.by_sequence && plan.by_head);
  EXPECT_EQ(plan.parts, 1);
  p.score.bias_per_head = true;
  plan = plan_cuda_backward(p, gpu);
  EXPECT_TRUE(plan.by_sequence && !plan.by_head);
  p.score.bias_per_batch = true;
  plan = plan_cuda_backward(p, gpu);
  EXPECT_TRUE(!plan.by_sequence && !plan.by_head);
  EXPECT_EQ(plan.launches.front().kernel.entry, "fa_backward_bias");
}

std::vector<std::string> names(const CudaBackwardPlan& plan) {
  std::vector<std::string> all;
  for (const Launch& launch : plan.launches) all.push_back(launch.kernel.entry);
  return all;
}

TEST(CudaBackwardPlan, LaunchesStandInTheirOrderWithTheirGrids) {
  const GpuLimits& gpu = *known_gpu("sm_90a");
  Problem p = problem(2, 512, 64, 64);
  const std::string prepare = "fa_backward_prepare", main = "fa_sm80_backward",
                    finish = "fa_backward_finish", keys = "fa_backward_finish_keys",
                    bias = "fa_backward_bias";
  EXPECT_EQ(names(plan_cuda_backward(p, gpu, {.parts = 1})),
            (std::vector<std::string>{prepare, main, finish}));
  p.dtype = float16;
  p.score.sinks = p.wants.dsinks = p.score.bias = p.wants.dbias = p.score.bias_per_batch =
      p.score.bias_per_row = true;  // not per head
  CudaBackwardPlan plan = plan_cuda_backward(p, gpu, {.parts = 2});
  EXPECT_EQ(names(plan), (std::vector<std::string>{"fa_backward_values", prepare, main, finish,
                                                   keys, bias, "fa_backward_sinks"}));
  EXPECT_EQ(plan.launches[0].grid.x, static_cast<unsigned>(plan.key_blocks));
  EXPECT_EQ(plan.launches[1].grid.x, static_cast<unsigned>(plan.row_blocks));
  EXPECT_EQ(plan.launches[2].grid.x, static_cast<unsigned>(plan.key_blocks * 2));
  EXPECT_EQ(plan.launches[5].grid.x, 2 * 512U);  // the rows of the bias
  EXPECT_EQ(plan.launches[6].grid.x, 8U);
  p.score.bias_per_head = true;
  EXPECT_EQ(names(plan_cuda_backward(p, gpu)).front(), bias);

  p.score.bias_per_batch = p.score.bias_per_head = false;
  p.run.deterministic = true;
  plan = plan_cuda_backward(p, gpu);
  const auto in_turn = std::ranges::find(plan.launches, Over::key_parts, &Launch::over);
  EXPECT_EQ(in_turn->sequences, 2);
  EXPECT_EQ(in_turn->heads, 2);
  EXPECT_EQ(in_turn->grid.x, static_cast<unsigned>(plan.key_tiles));
}

TEST(CudaBackwardPlan, WithoutBlocksThereIsNothingToDo) {
  const GpuLimits& gpu = *known_gpu("sm_90a");
  EXPECT_TRUE(plan_cuda_backward(problem(0, 512, 64, 64), gpu).empty());
  EXPECT_TRUE(plan_cuda_backward(problem(2, 0, 64, 64), gpu).empty());
  Problem p = problem(0, 512, 64, 64);
  p.score.sinks = p.wants.dsinks = true;  // whose gradient is 0, which is to be written
  EXPECT_FALSE(plan_cuda_backward(p, gpu).empty());
  p = problem(2, 0, 64, 64);
  p.score.bias = p.wants.dbias = p.score.bias_per_row = true;
  EXPECT_TRUE(plan_cuda_backward(p, gpu).empty());
}

/// src/plan/cuda/sm80/backward_tiles.cpp says what each is meant for.
TEST(CudaBackwardPlan, TilesDependOnTheLengthTheScoresAndTheOrder) {
  const GpuLimits& gpu = *known_gpu("sm_90a");
  const auto tile = [&](int64_t head_dim, int64_t seqlen, bool in_order) {
    Problem p = problem(1, seqlen, head_dim, head_dim);
    p.run.deterministic = in_order;
    return backward_tile(p, gpu);
  };
  for (const int64_t head_dim : {64, 96}) {
    EXPECT_EQ(tile(head_dim, 4096, false).keys, 96);
    EXPECT_EQ(tile(head_dim, 512, false).keys, 64);
    EXPECT_EQ(tile(head_dim, 4096, true), tile(head_dim, 4096, false));
    Problem capped = problem(1, 4096, head_dim, head_dim);
    capped.score.softcap = 2;
    EXPECT_EQ(backward_tile(capped, gpu).keys, 64);
    Problem packed = problem(1, 4096, head_dim, head_dim);
    packed.q.packed = packed.k.packed = true;
    EXPECT_EQ(backward_tile(packed, gpu).keys, 64);
  }
  EXPECT_EQ(tile(64, 512, false).min_blocks, 3);
  EXPECT_EQ(tile(64, 512, true).min_blocks, 2);
  EXPECT_EQ(tile(128, 4096, true), tile(128, 4096, false));
  EXPECT_NE(tile(256, 4096, true), tile(256, 4096, false));
}

/// Warps share 96 keys as two times 48, so that two stand side by side in each product.
TEST(CudaBackwardPlan, LooksForMasksOnlyWhereThereAreSome) {
  const GpuLimits& gpu = *known_gpu("sm_90a");
  const auto looks = [&](const std::function<void(Problem&)>& change) {
    Problem p = problem(2, 1024, 128, 128);  // 64 keys a block
    change(p);
    const std::string constants = plan_cuda_backward(p, gpu).main().constants;
    return constants.find("all_seen") == constants.npos;
  };
  EXPECT_FALSE(looks([](Problem&) {}));
  EXPECT_FALSE(looks([](Problem& p) { p.q.seqlen = 1000; }));
  EXPECT_FALSE(looks([](Problem& p) { p.q.used = true; }));
  EXPECT_TRUE(looks([](Problem& p) { p.k.seqlen = 1000; }));
  EXPECT_TRUE(looks([](Problem& p) { p.head_dim = p.head_dim_v = 96; }));  // 96 keys a block
  EXPECT_TRUE(looks([](Problem& p) { p.score.window_right = 0; }));
  EXPECT_TRUE(looks([](Problem& p) { p.score.window_left = 100; }));
  EXPECT_TRUE(looks([](Problem& p) { p.k.used = true; }));
  EXPECT_TRUE(looks([](Problem& p) { p.q.packed = p.k.packed = true; }));
}

TEST(CudaBackwardPlan, ThePresetHasWhatTrainingAsksForMost) {
  for (const GpuLimits& gpu : known_gpus()) {
    const std::vector<KernelSpec> kernels = preset_kernels("llm-backward", gpu.arch);
    for (const int64_t head_dim : {64, 128, 256, 512}) {
      for (const int64_t keys : {64, 100, 512, 700, 1000, 1024, 1152, 2048, 3000, 3072, 16384}) {
        for (const int form : {0, 1, 2, 3}) {
          Problem p = problem(4, keys, head_dim, head_dim);
          p.run.family = Family::automatic;
          p.score.window_right = form % 2 - 1;
          if (head_dim == 512 && form % 2 == 0) continue;  // few models have it, all of them causal
          p.q.packed = p.k.packed = form / 2 == 1;
          const CudaBackwardPlan plan = plan_cuda_backward(p, gpu);
          for (const Launch& launch : plan.launches) {
            EXPECT_EQ(std::ranges::count(kernels, launch.kernel), 1)
                << gpu.arch << ", " << keys << ", " << launch.kernel.constants;
          }
        }
      }
    }
  }
}

TEST(CudaBackwardPlan, ColumnsArePaddedForWarpsThatStandSideBySide) {
  const BackwardTile wide = {.keys = 96};
  for (const auto& [head_dim, columns] :
       {std::pair{8, 32}, {32, 32}, {48, 64}, {80, 96}, {96, 96}, {104, 128}, {192, 192}}) {
    EXPECT_EQ(padded_columns(wide, head_dim), columns);
  }
  EXPECT_EQ(padded_columns({}, 48), 48);
  EXPECT_EQ(padded_columns({.warps = 8, .rows = 32}, 96), 128);
  const BackwardTile shared_sums = {.rows = 16, .keys = 16, .sum_warps = 4};
  for (const auto& [head_dim, columns] :
       {std::pair{8, 64}, {104, 128}, {264, 384}, {392, 512}, {512, 512}, {576, 576}}) {
    EXPECT_EQ(padded_columns(shared_sums, head_dim), columns);
  }
}

TEST(CudaBackwardPlan, HeadsOfAGroupAreSharedOutEvenly) {
  const GpuLimits& gpu = *known_gpu("sm_90a");
  for (const int64_t group : {1, 2, 6, 7, 16}) {
    Problem p = problem(1, 8192, 128, 128);
    p.k.heads = 8;
    p.q.heads = 8 * group;
    CudaBackwardPlan plan = plan_cuda_backward(p, gpu);
    EXPECT_EQ(plan.parts * plan.part_heads, group);
    EXPECT_GE(plan.key_blocks * plan.parts, std::min<int64_t>(8 * 128 * group, 12 * 264));
    p.run.deterministic = true;
    EXPECT_EQ(plan_cuda_backward(p, gpu).parts, group);
    p.run.batch_invariant = true;
    p.run.deterministic = false;
    EXPECT_EQ(plan_cuda_backward(p, gpu).parts, 1);
  }
}

// A sequence's bits depend on its tile, and on how many blocks share a tile of keys.
TEST(CudaBackwardPlan, BatchInvariantTilesDoNotDependOnTheBatch) {
  for (const GpuLimits& gpu : known_gpus()) {
    for (const int64_t head_dim : {32, 64, 96, 128, 192, 256, 512}) {
      for (const int64_t right : {-1, 0}) {
        Problem p = problem(1, 100, head_dim, head_dim);
        p.score.window_right = right;
        p.run.batch_invariant = true;
        const BackwardTile alone = backward_tile(p, gpu);
        for (const int64_t seqlen : {1, 1024, 3000, 100'000}) {
          for (const bool packed : {false, true}) {
            Problem other = problem(3, seqlen, head_dim, head_dim);
            other.score.window_right = right;
            other.run.batch_invariant = true;
            other.q.packed = other.k.packed = packed;
            other.q.tokens = other.k.tokens = 3 * seqlen;
            const CudaBackwardPlan plan = plan_cuda_backward(other, gpu);
            EXPECT_EQ(plan.cut, plan_cuda_backward(p, gpu).cut);
            EXPECT_EQ(backward_tile(other, gpu), alone) << to_text(plan);
            EXPECT_EQ(plan.parts, 1);
          }
        }
      }
    }
  }
}

TEST(CudaBackwardPlan, AHeadDimTooWideForTheDeviceIsRefusedByName) {
  GpuLimits small = *known_gpu("sm_86");
  small.shared_per_block = 64 << 10;
  try {
    plan_cuda_backward(problem(1, 64, 512, 512), small);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::unsupported);
    EXPECT_EQ(std::string(error.what()),
              "q: has head_dim 512, 512 of v: too wide for the 65536 bytes of sm_86");
  }
}

TEST(CudaBackwardPlan, WhatIsNotOfferedIsRefusedByName) {
  const struct {
    std::function<void(Problem&)> set;
    const char* message;
  } cases[] = {
      {[](Problem& p) { p.dtype = float32; }, "q: is float32;"},
      {[](Problem& p) { p.k.packed = true, p.k.tokens = int64_t{1} << 31; },
       "k: has 2147483648 rows;"},
      {[](Problem& p) { p.run.family = Family::sm90, p.head_dim = 56; },
       "family: is sm90, which does not serve here: its head_dim is 64 to 256, this is 56, 64 of "
       "v"},
      {[](Problem& p) { p.batch = 1 << 20, p.q.heads = p.k.heads = 1 << 20; }, "k: makes "},
  };
  for (const auto& refused : cases) {
    Problem p = problem(1, 64, 64, 64);
    refused.set(p);
    try {
      plan_cuda_backward(p, *known_gpu("sm_90a"));
      ADD_FAILURE() << "accepted: " << refused.message;
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::unsupported);
      EXPECT_TRUE(std::string(error.what()).starts_with(refused.message)) << error.what();
    }
  }
}

}  // namespace
}  // namespace fa
