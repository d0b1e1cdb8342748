// The kernels that `fa compile` makes ahead of their use.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "cuda_problems.hpp"
#include "plan/cuda/forward.hpp"
#include "plan/cuda/preset.hpp"

namespace fa {
namespace {

TEST(Preset, IsAFewKernelsThatFitEachGpu) {
  for (const GpuLimits& gpu : known_gpus()) {
    const std::vector<KernelSpec> kernels = preset_kernels("llm", gpu.arch);
    EXPECT_LE(kernels.size(), 120U);
    for (size_t i = 0; i < kernels.size(); ++i) {
      EXPECT_LE(kernels[i].shared_bytes, gpu.shared_per_block);
      EXPECT_EQ(std::count(kernels.begin(), kernels.end(), kernels[i]), 1) << kernels[i].constants;
    }
    // What programs ask for most is among them, with and without LSE.
    for (const DType dtype : {float16, bfloat16}) {
      for (const int64_t head_dim : {64, 128, 256, 512}) {
        for (const bool causal : {false, true}) {
          if (head_dim == 512 && !causal) continue;
          for (const int64_t keys : {100, 512, 700, 1000, 1600, 2048, 3000, 4096, 100'000}) {
            Problem p = problem(4, keys, keys, head_dim);
            p.dtype = dtype;
            p.score.window_right = causal ? 0 : -1;
            p.wants.lse = keys % 3 == 0;
            const auto there = [&] {
              const CudaForwardPlan plan = plan_cuda_forward(p, gpu);
              return std::ranges::all_of(plan.launches, [&](const Launch& launch) {
                return std::ranges::count(kernels, launch.kernel) == 1;
              });
            };
            EXPECT_TRUE(there()) << "batched, " << keys;
            p.k.used = true;
            EXPECT_TRUE(there()) << "a cache of " << keys;
            p.q.seqlen = 1;
            for (const int64_t group : {1, 8}) {
              p.q.heads = group * p.k.heads;
              p.batch = 4;
              EXPECT_TRUE(there()) << "a token, " << keys << ", groups of " << group;
              p.batch = 256;
              EXPECT_TRUE(there()) << "256 tokens, " << keys << ", groups of " << group;
            }
            p = problem(4, keys, keys, head_dim);
            p.dtype = dtype;
            p.score.window_right = causal ? 0 : -1;
            p.q.packed = p.k.packed = true;
            p.q.tokens = p.k.tokens = 4 * keys;
            EXPECT_TRUE(there()) << "packed, " << keys;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace fa
