// How a plan for a CUDA device cuts a problem: row tiles, splits of the keys, sections of heads.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "cuda_problems.hpp"
#include "kernels/common/params.h"
#include "plan/cuda/forward.hpp"

namespace fa {
namespace {

TEST(CudaPlan, FewQueriesAreSplitToFillTheDeviceOnce) {
  for (const GpuLimits& gpu : known_gpus()) {
    for (const int64_t head_dim : {64, 128, 256, 320, 512, 576}) {
      for (const int64_t seqlen_k : {512, 700, 8192, 8193, 100'000, 1 << 20}) {
        for (const int64_t batch : {1, 2, 3}) {
          Problem p = problem(batch, 1, seqlen_k, head_dim);
          p.q.heads = p.k.heads = head_dim > 256 ? 1 : 4;
          if (head_dim == 576) p.head_dim_v = 512;
          const CudaForwardPlan plan = plan_cuda_forward(p, gpu);
          SCOPED_TRACE(to_text(plan));
          EXPECT_GT(plan.splits, 1);
          EXPECT_LE(plan.splits * int64_t{plan.blocks} * plan.cut.value_slices,
                    int64_t{gpu.sm_count} * plan.cut.blocks_per_sm);
          // They cover the keys, whole steps each, and none is empty.
          EXPECT_EQ(plan.split_keys % plan.cut.keys, 0);
          EXPECT_GE(int64_t{plan.splits} * plan.split_keys, seqlen_k);
          EXPECT_LT((plan.splits - 1) * int64_t{plan.split_keys}, seqlen_k);

          ASSERT_NE(plan.kernel("fa_combine"), nullptr);
          EXPECT_EQ(plan.partial_rows, batch * p.q.heads);
          EXPECT_EQ(plan.workspace_bytes,
                    with_counter(plan, sizeof(float) * plan.splits * plan.partial_rows *
                                           (plan.problem.head_dim_v + 1)));
          EXPECT_TRUE(has(plan.main(), "split"));
        }
      }
    }
  }
}

/// Each share has two places for the parts of tiles that it has not alone.
void expect_shares(const CudaForwardPlan& plan) {
  const Problem& p = plan.problem;
  const int64_t blocks = plan.gpu.sm_count;
  EXPECT_EQ(plan.launches.front().grid.x, blocks);
  EXPECT_TRUE(has(plan.main(), "shares"));
  EXPECT_TRUE(plan.claims);
  EXPECT_TRUE(plan.shares % blocks == 0 && plan.shares <= 4 * blocks);
  EXPECT_EQ(plan.splits, 1);
  EXPECT_EQ(plan.partial_rows, plan.cut.heads * std::min<int64_t>(p.q.seqlen, plan.cut.rows));
  EXPECT_EQ(plan.shared_tiles % alignof(kernel::SharedTile), 0U);
  const size_t parts = sizeof(float) * 2 * plan.shares * plan.partial_rows * (p.head_dim_v + 1),
               tiles = plan.shares * sizeof(kernel::SharedTile);
  EXPECT_GE(plan.shared_tiles, parts);
  EXPECT_GE(plan.workspace_bytes,
            plan.shared_tiles + tiles + sizeof(int) + sizeof(kernel::TileCounter));
  EXPECT_LT(plan.workspace_bytes, parts + tiles + 64);
  ASSERT_EQ(plan.launches.size(), 2U);
  const Launch& join = plan.launches.back();
  EXPECT_EQ(join.kernel.entry, "fa_join_shares");
  EXPECT_EQ(join.grid.x, plan.partial_rows);
  EXPECT_EQ(join.grid.y, blocks);
  EXPECT_TRUE(join.dependent);
}

TEST(CudaPlan, HopperSharesOutKeysOfUnequalLengths) {
  for (const int64_t head_dim : {64, 128, 256}) {
    for (const int64_t seqlen_k : {512, 8193, 1 << 20}) {
      for (const int64_t batch : {1, 3, 64}) {
        Problem p = problem(batch, 2, seqlen_k, head_dim);
        p.k.used = true;
        const CudaForwardPlan plan = plan_cuda_forward(p, *known_gpu("sm_90a"));
        SCOPED_TRACE(to_text(plan));
        expect_shares(plan);
        p.k.used = false;
        EXPECT_EQ(plan_cuda_forward(p, *known_gpu("sm_90a")).shares, 0);
      }
    }
  }
}

// A batch of which only tokens behind the last sequence are left, and more steps than 32 bits
// count.
TEST(CudaPlan, HopperSharesOutNothingWhereThereAreNoRowsOrTooManySteps) {
  Problem p = problem(2, 0, 1024);
  p.q.packed = p.k.used = true;
  p.q.tokens = 5;
  EXPECT_EQ(plan_cuda_forward(p, *known_gpu("sm_90a")).shares, 0);
  Problem many = problem(40'000, 1, 1 << 20);
  many.k.used = true;
  EXPECT_EQ(plan_cuda_forward(many, *known_gpu("sm_90a")).shares, 0);
}

TEST(CudaPlan, WhatFillsTheDeviceOrHasFewKeysIsNotSplit) {
  for (const GpuLimits& gpu : known_gpus()) {
    std::vector<Problem> whole{problem(64, 1, 8192), problem(2, 8192, 8192), problem(1, 1, 100),
                               problem(1, 1, 0),     problem(0, 1, 8192),    problem(1, 0, 8192)};
    Problem window = problem(1, 1, 8192);  // few keys are seen
    window.score.window_left = 100;
    window.score.window_right = 0;
    whole.push_back(window);
    Problem invariant = problem(1, 1, 8192);
    invariant.run.batch_invariant = true;
    whole.push_back(invariant);
    for (const Problem& p : whole) {
      const CudaForwardPlan plan = plan_cuda_forward(p, gpu);
      EXPECT_EQ(plan.splits, 1) << to_text(plan);
      EXPECT_EQ(plan.launches.size(), 1U);
      EXPECT_EQ(plan.workspace_bytes, with_counter(plan, 0));
      EXPECT_GE(plan.split_keys, p.k.seqlen);
      EXPECT_FALSE(has(plan.main(), "split"));
    }
  }
}

TEST(CudaPlan, BatchInvariantPlansDoNotDependOnTheBatch) {
  for (const GpuLimits& gpu : known_gpus()) {
    for (const Problem& shape : shapes()) {
      for (const bool packed : {false, true}) {
        Problem alone = shape;
        alone.run.batch_invariant = true;
        alone.q.packed = alone.k.packed = packed;
        Problem among = alone;
        alone.batch = 1;
        among.batch = 77;
        for (Problem* p : {&alone, &among}) {
          p->q.tokens = p->batch * p->q.seqlen;
          p->k.tokens = p->batch * p->k.seqlen;
        }
        const CudaForwardPlan a = plan_cuda_forward(alone, gpu), b = plan_cuda_forward(among, gpu);
        EXPECT_EQ(a.main(), b.main());
        EXPECT_EQ(a.splits, b.splits);
      }
    }
  }
}

TEST(CudaPlan, SplitsOfPackedSequencesKeepARowForEveryToken) {
  for (const GpuLimits& gpu : known_gpus()) {
    Problem p = problem(3, 20, 50'000);
    p.run.family = Family::sm80;  // sm90 shares them out
    p.q.packed = p.k.packed = true;
    p.q.tokens = 41;
    p.q.heads = p.k.heads = 2;
    const CudaForwardPlan plan = plan_cuda_forward(p, gpu);
    ASSERT_NE(plan.kernel("fa_combine"), nullptr);
    EXPECT_EQ(plan.partial_rows, 2 * 41);
    EXPECT_EQ(plan.workspace_bytes, with_counter(plan, sizeof(float) * plan.splits * 2 * 41 * 129));
  }
}

TEST(CudaPlan, PackedTilesCoverSequencesOfAnyLengths) {
  std::mt19937 random(1);
  for (const GpuLimits& gpu : known_gpus()) {
    for (int n = 0; n < 200; ++n) {
      Problem p = problem(1 + random() % 9, 4096, 4096);
      p.q.packed = true;
      p.q.heads = 8;
      std::vector<int64_t> lengths(p.batch + 1);  // the last: tokens behind all sequences
      p.q.tokens = 0;
      for (int64_t& length : lengths) {
        length = random() % (n % 2 == 0 ? 5 : 1000);
        p.q.tokens += length;
      }
      const CudaForwardPlan plan = plan_cuda_forward(p, gpu);
      int64_t needed = 0;
      for (const int64_t length : lengths) {
        needed += (length + plan.cut.rows - 1) / plan.cut.rows;
      }
      EXPECT_GE(plan.row_tiles, needed);
      EXPECT_LE(plan.row_tiles, needed + p.batch + 1) << "blocks without work";
      EXPECT_EQ(plan.blocks, int64_t{plan.row_tiles} * 8);
    }
    Problem none = problem(3, 0, 100);
    none.q.packed = true;
    EXPECT_EQ(plan_cuda_forward(none, gpu).launches.front().grid.x, 0U);
  }
}

TEST(CudaPlan, RowsOfABatchAreTiledOnce) {
  for (const GpuLimits& gpu : known_gpus()) {
    for (const int64_t seqlen : {0, 1, 63, 64, 65, 127, 128, 129, 1000}) {
      const CudaForwardPlan plan = plan_cuda_forward(problem(3, seqlen, 1000), gpu);
      EXPECT_GE(int64_t{plan.row_tiles} * plan.cut.rows, seqlen);
      EXPECT_LT((plan.row_tiles - 1) * int64_t{plan.cut.rows}, seqlen);
      EXPECT_EQ(plan.blocks, int64_t{plan.row_tiles} * 3 * 32 / plan.cut.heads);
    }
  }
}

// The tiles of a section's heads alternate, so that their keys must fit the L2 of 40 MB (A100's) or
// more together; query heads of one key head belong to one section.
TEST(CudaPlan, SectionsFitTheCacheInWholeGroups) {
  for (const GpuLimits& gpu : known_gpus()) {
    for (const int64_t head_dim : {64, 128, 256}) {
      for (const int64_t seqlen : {0, 1, 512, 8192, 131'072, 1 << 20}) {
        Problem p = problem(2, seqlen, seqlen, head_dim);
        EXPECT_EQ(plan_cuda_forward(p, gpu).section, 1);
        p.score.window_right = 0;
        const CudaForwardPlan plan = plan_cuda_forward(p, gpu);
        const int64_t heads = p.q.heads / plan.cut.heads, group = heads / p.k.heads;
        EXPECT_GE(plan.section, group);
        EXPECT_EQ(plan.section % group, 0);
        EXPECT_LE(plan.section, 2 * heads);
        const int64_t bytes = plan.section / group * seqlen * 2 * head_dim * 2;
        EXPECT_TRUE(plan.section == group || bytes <= 40 << 20) << bytes;
        if (seqlen <= 512) {
          EXPECT_EQ(plan.section, 2 * heads);
        }
      }
    }
  }
}

// A sequence's bits depend on its tile and on splits.
TEST(CudaPlan, BatchInvariantTilesDoNotDependOnTheBatch) {
  for (const GpuLimits& gpu : known_gpus()) {
    for (const int64_t head_dim : {32, 64, 96, 128, 192, 256, 384, 512, 576}) {
      for (const int64_t right : {-1, 0}) {
        Problem p = problem(1, 100, 100, head_dim);
        p.head_dim_v = std::min<int64_t>(head_dim, 512);
        p.score.window_right = right;
        p.run.batch_invariant = true;
        const ForwardTile alone = forward_tile(p, gpu);
        for (const int64_t seqlen : {1, 1024, 3000, 100'000}) {
          for (const bool packed : {false, true}) {
            Problem other = problem(3, seqlen, seqlen, head_dim);
            other.head_dim_v = p.head_dim_v;
            other.score.window_right = right;
            other.run.batch_invariant = true;
            other.q.packed = other.k.packed = packed;
            other.q.tokens = other.k.tokens = 3 * seqlen;
            const CudaForwardPlan plan = plan_cuda_forward(other, gpu);
            EXPECT_EQ(plan.cut, plan_cuda_forward(p, gpu).cut);
            EXPECT_EQ(forward_tile(other, gpu), alone) << to_text(plan);
            EXPECT_EQ(plan.splits, 1);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace fa
