// Plans for CUDA devices, for the limits of every known GPU. They are checked as to what must hold
// of any tile: the numbers themselves come from measurements and may change.
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "ablation/variants.hpp"
#include "cuda_problems.hpp"
#include "plan/cuda/forward.hpp"

namespace fa {
namespace {

/// What the kernel and the device ask of every plan.
void expect_sound(const CudaForwardPlan& plan, const ForwardTile& t) {
  const Problem& p = plan.problem;
  const KernelSpec& main = plan.main();
  SCOPED_TRACE(to_text(plan));
  EXPECT_TRUE(t.warp_rows == 16 || t.warp_rows == 32);
  EXPECT_TRUE(t.keys >= 16 && t.keys % 16 == 0);
  EXPECT_TRUE(t.groups == 1 || t.groups == 2);
  EXPECT_EQ(t.warps % t.groups, 0);
  EXPECT_GE(t.stages, 1);
  EXPECT_GE(t.min_blocks, 1);
  EXPECT_GE(t.query_slices, 0);
  EXPECT_LE(t.query_slices, (p.head_dim + 15) / 16);
  const int columns = value_columns(t, p.head_dim_v);
  EXPECT_EQ(columns % 8, 0);
  EXPECT_LE(columns, p.head_dim_v);
  EXPECT_GE(columns * t.value_slices, p.head_dim_v);
  EXPECT_LT(columns * (t.value_slices - 1), p.head_dim_v) << "a slice without columns of its own";

  EXPECT_EQ(main.threads, 32 * t.warps);
  EXPECT_EQ(main.shared_bytes, shared_bytes(t, p.head_dim, p.head_dim_v));
  EXPECT_LE(main.shared_bytes, plan.gpu.shared_per_block);
  EXPECT_LE(registers(t, p.head_dim_v), register_limit(t));
  EXPECT_GE(resident_blocks(plan.gpu, main.threads, register_limit(t), main.shared_bytes),
            t.min_blocks);
}

TEST(CudaPlan, EveryHeadDimAndOptionFitsEveryGpu) {
  std::vector<int64_t> head_dims;  // all to 256, and around what tiles end at
  for (int64_t n = 8; n <= 256; n += 8) head_dims.push_back(n);
  for (const int64_t n : {264, 272, 320, 376, 384, 392, 504, 512}) head_dims.push_back(n);
  for (const GpuLimits& gpu : known_gpus()) {
    for_each_option(head_dims, [&](Problem& p, const char* option) {
      p.run.family = Family::sm80;
      expect_sound(plan_cuda_forward(p, gpu), forward_tile(p, gpu));
      ASSERT_FALSE(HasFailure()) << option;
    });
  }
}

TEST(CudaPlan, TheWidestHeadDimFitsEveryGpuWithEveryOption) {
  for (const GpuLimits& gpu : known_gpus()) {
    for (Problem p : shapes(576)) {
      p.head_dim_v = 512;
      expect_sound(plan_cuda_forward(p, gpu), forward_tile(p, gpu));
      for (const Choice& option : choices()) {
        Problem with = p;
        option.set(with);
        expect_sound(plan_cuda_forward(with, gpu), forward_tile(with, gpu));
      }
    }
  }
}

// As many as are needed, so that no product is formed twice without need.
TEST(CudaPlan, ColumnsOfVBeyond256AreSliced) {
  for (const GpuLimits& gpu : known_gpus()) {
    for (const int64_t head_dim : {64, 512}) {
      for (const auto& [head_dim_v, slices, columns] : {std::tuple<int64_t, int, int>{256, 1, 256},
                                                        {264, 2, 136},
                                                        {272, 2, 136},
                                                        {504, 2, 256},
                                                        {512, 2, 256}}) {
        Problem p = problem(1, 100, 100, head_dim);
        p.head_dim_v = head_dim_v;
        const CudaForwardPlan plan = plan_cuda_forward(p, gpu);
        EXPECT_EQ(plan.cut.value_slices, slices) << to_text(plan);
        EXPECT_EQ(value_columns(forward_tile(p, gpu), head_dim_v), columns);
      }
    }
  }
}

TEST(CudaPlan, AHeadDimTooWideForTheDeviceIsRefusedByName) {
  GpuLimits small = *known_gpu("sm_86");
  small.shared_per_block = 16 << 10;
  try {
    plan_cuda_forward(problem(1, 64, 64, 256), small);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::unsupported);
    EXPECT_EQ(std::string(error.what()),
              "q: has head_dim 256, 256 of v: too wide for the 16384 bytes of sm_86");
  }
}

TEST(CudaPlan, WhatIsNotOfferedIsRefusedByName) {
  const struct {
    std::function<void(Problem&)> set;
    const char* message;
  } cases[] = {
      {[](Problem& p) { p.dtype = float32; }, "q: is float32;"},
      {[](Problem& p) { p.q.packed = true, p.q.tokens = int64_t{1} << 31; },
       "q: has 2147483648 rows;"},
      {[](Problem& p) { p.q.seqlen = (int64_t{1} << 31) - 256; }, "q: has 2147483392 rows;"},
      {[](Problem& p) { p.k.seqlen = (int64_t{1} << 31) - 256; }, "k: has 2147483392 rows;"},
      {[](Problem& p) { p.batch = 1 << 20, p.q.heads = 1 << 20; }, "q: makes "},
  };
  for (const GpuLimits& gpu : known_gpus()) {
    for (const auto& refused : cases) {
      Problem p = problem(1, 64, 64);
      refused.set(p);
      try {
        plan_cuda_forward(p, gpu);
        ADD_FAILURE() << "accepted: " << refused.message;
      } catch (const Error& error) {
        EXPECT_EQ(error.status(), Status::unsupported);
        EXPECT_TRUE(std::string(error.what()).starts_with(refused.message)) << error.what();
      }
    }
  }
}

TEST(CudaPlan, EveryOptionIsAKernelOfItsOwn) {
  for (const GpuLimits& gpu : known_gpus()) {
    std::set<std::string> configs{plan_cuda_forward(shapes()[0], gpu).main().program};
    for (const Choice& option : choices()) {
      const std::string_view name = option.name;
      if (name == "zero scale" || name == "no lse") continue;  // negative scale's, and the same
      const bool copies_bias = gpu.arch == "sm_90a";
      if (!copies_bias && (name == "bias of keys" || name == "unaligned bias")) continue;
      Problem p = shapes()[0];
      option.set(p);
      EXPECT_TRUE(configs.insert(plan_cuda_forward(p, gpu).main().program).second) << option.name;
    }
  }
}

TEST(CudaPlan, ValuesAndShapesShareKernels) {
  for (const GpuLimits& gpu : known_gpus()) {
    Problem p = problem(2, 8192, 8192);
    p.score.window_left = 1000;
    p.score.window_right = 0;
    p.score.softcap = 20;
    p.dropout_p = 0.1;
    Problem other = p;
    other.score.scale = 0.3;
    other.score.window_left = 900;
    other.score.window_right = 7;
    other.score.softcap = 50;
    other.dropout_p = 0.2;
    other.q.seqlen = other.k.seqlen = 8191;
    other.q.tokens = other.k.tokens = 2 * 8191;
    other.run.num_threads = 5;
    EXPECT_EQ(plan_cuda_forward(p, gpu).main(), plan_cuda_forward(other, gpu).main());

    // Each costs seconds when first met, so that shapes may not have many.
    std::set<std::string> kernels;
    for (const int64_t batch : {1, 2, 3, 8, 64}) {
      for (int64_t seqlen_q = 1; seqlen_q < 20000; seqlen_q += 1 + seqlen_q / 3) {
        for (const int64_t seqlen_k : {1, 100, 1000, 10000, 100000}) {
          kernels.insert(plan_cuda_forward(problem(batch, seqlen_q, seqlen_k), gpu).main().program);
        }
      }
    }
    EXPECT_LE(kernels.size(), 4U);
  }
}

TEST(CudaPlan, TuningDecidesWhatItNames) {
  const Problem p = problem(1, 300, 1000);
  const GpuLimits& gpu = *known_gpu("sm_90a");
  const ForwardTile tile{.warps = 2, .warp_rows = 16, .keys = 16, .stale_maximum = false};
  const CudaForwardPlan plan = plan_cuda_forward(p, gpu, {.tile = tile, .splits = 7, .section = 3});
  EXPECT_EQ(plan.cut.rows, 32);
  EXPECT_EQ(plan.cut.keys, 16);
  EXPECT_EQ(plan.row_tiles, 10);
  EXPECT_EQ(plan.splits, 7);
  EXPECT_EQ(plan.split_keys, 144);
  EXPECT_NE(plan.kernel("fa_combine"), nullptr);
  EXPECT_EQ(plan.section, 3);
  EXPECT_FALSE(has(plan.main(), "stale_maximum"));
}

TEST(Ablation, VariantsAreSoundAndLeaveOutOneWayEach) {
  for (const GpuLimits& gpu : known_gpus()) {
    for (const int64_t head_dim : {64, 128}) {
      Problem p = problem(2, 4096, 4096, head_dim);
      p.score.window_right = 0;
      p.run.family = Family::sm80;
      std::set<std::string> names;
      for (const bench::Variant& variant : bench::variants(p, gpu)) {
        names.insert(variant.name);
        const CudaForwardPlan plan = plan_cuda_forward(p, gpu, variant.tuning);
        expect_sound(plan, std::get<ForwardTile>(*variant.tuning.tile));
        EXPECT_EQ(has(plan.main(), "stale_maximum"), variant.name == "normal");
      }
      EXPECT_EQ(names, (std::set<std::string>{"normal", "exact maximum"}));
      EXPECT_EQ(plan_cuda_forward(p, gpu, bench::variants(p, gpu).front().tuning).main(),
                plan_cuda_forward(p, gpu).main());
    }
  }
}

TEST(CudaPlan, TextNamesWhatWasDecided) {
  for (const GpuLimits& gpu : known_gpus()) {
    const CudaForwardPlan plan = plan_cuda_forward(problem(1, 1, 100'000), gpu);
    const std::string text = to_text(plan);
    const auto number = [](int64_t n) { return std::to_string(n); };
    for (const std::string& part :
         {"device: cuda, " + gpu.arch, std::string("dtype: bfloat16\n"),
          std::string("heads: 32 query, 8 key\n"), std::string("head_dim: 128, 128 of v\n"),
          "kernel: " + plan.main().entry + " (", number(plan.main().shared_bytes) + " bytes",
          number(plan.splits) + " splits", "keys of a split: " + number(plan.split_keys) + "\n",
          "sections of " + number(plan.section) + " heads\n",
          std::string("combine kernel: fa_combine (128 threads)\n"),
          "workspace: " + number(static_cast<int64_t>(plan.workspace_bytes)) + " bytes\n"}) {
      EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
    }
  }
}

TEST(CudaPlan, FactorsBeyondFloat32AreRefusedByName) {
  const GpuLimits& gpu = *known_gpu("sm_90a");
  const auto message = [&](double scale, double softcap) -> std::string {
    Problem p = problem(1, 100, 100, 64);
    p.score.scale = scale;
    p.score.softcap = softcap;
    try {
      (void)plan_cuda_forward(p, gpu);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(message(2e38, 0), "");
  EXPECT_EQ(message(1e-60, 0), "");
  EXPECT_TRUE(message(3e38, 0).starts_with("scale: ")) << message(3e38, 0);
  EXPECT_TRUE(message(-3e38, 0).starts_with("scale: "));
  EXPECT_TRUE(message(1, 3e38).starts_with("softcap: "));
  EXPECT_TRUE(message(1, 1e-300).starts_with("scale: "));
}

// A factor that float32 rounds to 0 must not meet the -inf of a mask.
TEST(CudaPlan, ATinyScaleIsNoPositiveOne) {
  Problem p = problem(1, 100, 100, 64);
  p.score.scale = 1e-60;
  const auto positive = [&] {
    return !has(plan_cuda_forward(p, *known_gpu("sm_90a")).main(), "positive_scale=false");
  };
  EXPECT_FALSE(positive());
  p.score.scale = 0.1;
  EXPECT_TRUE(positive());
}

}  // namespace
}  // namespace fa
