// The shipped kernels through a real NVRTC (tools/with_nvrtc), for every known GPU: they compile
// without a warning, fit the registers and the shared memory that the plan counts on, and those of
// Hopper keep their registers in the loops of products. Of the presets all of 9.0 and a part of the
// others are compiled; with FA_EVERY_KERNEL=1 in the environment all are (some 18 minutes of one
// core).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "ablation/variants.hpp"
#include "check/generate.hpp"
#include "check/problems.hpp"
#include "cuda/launch/precompile.hpp"
#include "cuda/runtime/compiler.hpp"
#include "cuda/runtime/cubin.hpp"
#include "cuda/runtime/kernel_store.hpp"
#include "cuda/runtime/nvrtc.hpp"
#include "cuda/runtime/parallel.hpp"
#include "cuda_problems.hpp"
#include "plan/cuda/backward.hpp"
#include "plan/cuda/forward.hpp"
#include "product_loops.hpp"

namespace fa::cuda {
namespace {

/// Compiled for this test once, as long as nothing changes. Only what compiled without a warning is
/// kept.
std::vector<char> compiled(const Target& target) {
  static const KernelStore store(sources(), digest(sources_digest()), DiskCache(FA_TEST_CACHE), {});
  const auto& [spec, arch] = target;
  const Digest name = digest_of(store.key(spec, arch).hex(), nvrtc_identity());
  if (auto code = store.cache().load(name)) return std::move(*code);
  std::string warnings;
  std::vector<char> code = compile(spec, arch, sources(), &warnings);
  EXPECT_EQ(warnings, "") << arch << " " << spec.entry << ": " << spec.constants;
  if (warnings.empty()) store.cache().store(name, code);
  return code;
}

bool is_of_hopper(const KernelSpec& spec) { return spec.entry.starts_with("fa_sm90_"); }

/// Fails for a kernel of Hopper's of which a loop of products has more than `most` loads and stores
/// of spilled registers.
void expect_kept_in_loops(const KernelSpec& spec, const std::vector<char>& code, int most) {
  const std::vector<test::ProductLoop> loops = test::product_loops(test::disassembled(code));
  EXPECT_FALSE(loops.empty()) << spec.constants;
  for (const test::ProductLoop& loop : loops) {
    EXPECT_LE(loop.local_accesses, most)
        << spec.entry << ", a loop of " << loop.instructions << " instructions: " << spec.constants;
  }
}

/// Fails for a kernel that spills more than `most` bytes of a thread's registers, of which fewer
/// blocks run than the plan counts on, or whose shared memory is too much. Hopper's may spill
/// `most_in_loops` registers in a loop of products, and none where they are of the forward pass.
void expect_fits(const std::vector<Target>& targets, int most, int most_in_loops = 0,
                 int most_in_forward_loops = 0) {
  parallel_for(static_cast<int64_t>(targets.size()), 0, [&](int64_t i) {
    const auto& [spec, arch] = targets[i];
    const std::vector<char> code = compiled(targets[i]);
    if (is_of_hopper(spec)) {
      expect_kept_in_loops(spec, code,
                           spec.entry == "fa_sm90_forward" ? most_in_forward_loops : most_in_loops);
    }
    const CubinUse use = cubin_use(code, spec.entry);
    const GpuLimits& gpu = *known_gpu(arch);
    const int blocks = resident_blocks(gpu, spec.threads, use.registers, spec.shared_bytes);
    EXPECT_TRUE(use.local_bytes <= most && blocks >= std::max(spec.min_blocks, 1) &&
                spec.shared_bytes <= gpu.shared_per_block)
        << fmt::format(
               "{} {}: {} registers, {} bytes spilled, {} bytes of shared memory, {} blocks of a "
               "multiprocessor: {}",
               arch, spec.entry, use.registers, use.local_bytes, spec.shared_bytes, blocks,
               spec.constants);
  });
}

// What the present kernels spill at most, in bytes of a thread; none of it may grow unseen.
constexpr int most_of_preset = 128;
constexpr int most_of_hopper = 16;  // all of the warp that loads: none in the loop of products
constexpr int most_of_hopper_with_bias = 24;
constexpr int most_of_backward = 152;
constexpr int most_of_hopper_backward = 248;  // of the warp that loads, between tiles, at a mask
constexpr int most_of_hopper_wide_backward = 208;  // of the warp that loads, and between tiles
constexpr int most_with_options = 440;             // of sm_120, with dropout and ALiBi
constexpr int most_with_options_of_hopper_backward = 864;
// Loads and stores of spilled registers in a loop of products:
constexpr int most_in_loops_of_hopper_backward = 2;        // at a mask, at head_dim 128
constexpr int most_in_loops_of_hopper_wide_backward = 25;  // of float16 in a fixed order
// Of float16 at head_dim 64 with dropout and a bias that each thread reads:
constexpr int most_in_loops_with_options_of_hopper_backward = 417;
constexpr int most_in_loops_with_options_of_hopper_forward = 76;
constexpr int most_of_ablation = 100;
constexpr int most_of_wide = 40;
constexpr int most_of_wide_backward = 40;

/// The GPUs whose tiles differ.
constexpr const char* archs_of_tiles[] = {"sm_80", "sm_86", "sm_90a"};

/// Leaves the kernels for Hopper and returns the others.
std::vector<Target> take_others(std::vector<Target>& targets) {
  const auto others = std::ranges::partition(
      targets, [](const Target& target) { return is_of_hopper(target.spec); });
  std::vector<Target> taken(others.begin(), others.end());
  targets.erase(others.begin(), others.end());
  return taken;
}

class Preset : public testing::TestWithParam<std::string> {};

/// All of a preset's kernels for 9.0; else one in three, on each GPU with tiles of its own another
/// third, and one in nine where the tiles are another GPU's: 8.9 and 12.0 have those of 8.6, 10.0
/// those of 9.0.
std::vector<Target> targets_of(const std::string& preset, const std::string& arch) {
  std::vector<Target> all = preset_targets(preset, {arch});
  if (std::getenv("FA_EVERY_KERNEL") != nullptr) return all;
  if (arch == "sm_90a") return all;
  const auto own = std::ranges::find(archs_of_tiles, arch);
  const size_t step = own != std::end(archs_of_tiles) ? 3 : 9,
               first = own - std::begin(archs_of_tiles);
  std::vector<Target> part;
  for (size_t i = first; i < all.size(); i += step) part.push_back(all[i]);
  return part;
}

TEST_P(Preset, FitsTheGpu) {
  std::vector<Target> hopper = targets_of("llm", GetParam());
  expect_fits(take_others(hopper), most_of_preset);
  expect_fits(hopper, most_of_hopper);
  EXPECT_EQ(hopper.empty(), GetParam() != "sm_90a");
}
TEST_P(Preset, BackwardFitsTheGpu) {
  std::vector<Target> hopper = targets_of("llm-backward", GetParam());
  expect_fits(take_others(hopper), most_of_backward);
  expect_fits(hopper, most_of_hopper_backward, most_in_loops_of_hopper_backward);
  EXPECT_EQ(hopper.empty(), GetParam() != "sm_90a");
}

std::vector<std::string> archs() {
  std::vector<std::string> names;
  for (const GpuLimits& gpu : known_gpus()) names.push_back(gpu.arch);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Kernels, Preset, testing::ValuesIn(archs()),
                         [](const auto& arch) { return arch.param; });

void add(std::vector<Target>& targets, const CudaPlan& plan) {
  for (const Launch& launch : plan.launches) targets.push_back({launch.kernel, plan.gpu.arch});
}

/// Kernels of configurations that cover all pairs of options, as the tests on a device draw them,
/// each for one of the GPUs.
std::vector<Target> sample() {
  constexpr int64_t configurations = 60;
  const check::Problems problems(1, check::cuda_offer, configurations);
  EXPECT_TRUE(problems.never_asked().empty());
  const auto gpus = known_gpus();
  std::vector<Target> targets;
  for (int64_t n = 0; n < configurations; ++n) {
    const check::Case c(problems.draw(n));
    Problem p = validate(c.forward_args(), c.options(), Data::optional).problem;
    p.device = {cuda_device, 0};
    const GpuLimits& gpu = gpus[n % gpus.size()];
    add(targets, plan_cuda_forward(p, gpu));
    if (!c.spec.backward) continue;
    p = validate(c.backward_args(), c.options(), Data::optional).problem;
    p.device = {cuda_device, 0};
    add(targets, plan_cuda_backward(p, gpu));
    // Those of Hopper with each third configuration: a wide one takes some ten seconds.
    if (n % 3 != 1) continue;
    const CudaBackwardPlan hopper = plan_cuda_backward(p, *known_gpu("sm_90a"));
    if (gpu.arch != "sm_90a" && is_of_hopper(hopper.main())) {
      targets.push_back({hopper.main(), "sm_90a"});
    }
  }
  return targets;
}

// ptxas says in its log where it waits for each product of wgmma by itself, which halves the speed.
// Such a kernel is refused, so that none can be shipped.
TEST(Hopper, SerializedProductsAreRefused) {
  Problem p;
  p.device = {cuda_device, 0};
  p.dtype = bfloat16;
  p.batch = 1;
  p.q.heads = p.k.heads = 4;
  p.head_dim = p.head_dim_v = 128;
  p.q.seqlen = p.k.seqlen = p.q.tokens = p.k.tokens = 4096;
  const sm90::ForwardTile tile{.groups = 3, .keys = 96, .loader_registers = 32};
  const CudaForwardPlan plan =
      plan_cuda_forward(p, *known_gpu("sm_90a"), {.tile = tile, .splits = {}, .section = {}});
  try {
    compile(plan.main(), "sm_90a", sources(), nullptr);
    ADD_FAILURE() << "not refused";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("serialized"), std::string::npos) << error.what();
  }
}

TEST(Hopper, WithABiasFitsTheGpu) {
  std::vector<Target> targets;
  for (const int64_t head_dim : {64, 128, 256}) {
    for (const auto& [dtype, per_row] :
         {std::pair{bfloat16, true}, {bfloat16, false}, {float32, true}}) {
      Problem p = problem(2, 4096, 4096, head_dim);
      p.score.window_right = 0;
      give_bias(p, dtype, per_row);
      targets.push_back({plan_cuda_forward(p, *known_gpu("sm_90a")).main(), "sm_90a"});
    }
  }
  expect_fits(targets, most_of_hopper_with_bias);
}

/// What decodes from a cache, in rows or pages.
TEST(Caches, FitTheGpu) {
  std::vector<Target> targets;
  for (const GpuLimits& gpu : {*known_gpu("sm_80"), *known_gpu("sm_90a")}) {
    for (const int64_t head_dim : {64, 128, 256}) {
      for (const int64_t page_size : {0, 16, 128}) {
        Problem p = problem(16, 2, 8192, head_dim);
        p.k.used = true;
        p.k.page_size = page_size;
        p.score.window_right = 0;
        for (const Launch& launch : plan_cuda_forward(p, gpu).launches) {
          targets.push_back({launch.kernel, gpu.arch});
        }
      }
    }
  }
  expect_fits(targets, most_of_preset);
}

/// What trains a language model.
Problem training(DType dtype, int64_t head_dim, int64_t head_dim_v, bool causal) {
  Problem p;
  p.pass = Pass::backward;
  p.device = {cuda_device, 0};
  p.dtype = dtype;
  p.batch = 4;
  p.q.heads = 32;
  p.k.heads = 8;
  p.head_dim = head_dim;
  p.head_dim_v = head_dim_v;
  p.q.seqlen = p.k.seqlen = 4096;
  p.q.tokens = p.k.tokens = 4 * 4096;
  p.score.window_right = causal ? 0 : -1;
  p.run.family = Family::sm90;
  return p;
}

/// The main backward kernels for Hopper, also of head_dims and orders that the presets have not.
using HeadDims = std::vector<std::pair<int64_t, int64_t>>;
const HeadDims narrow_heads{{64, 64}, {96, 96}, {128, 128}}, wide_heads{{256, 256}, {192, 128}};
std::vector<Target> hopper_backward(const HeadDims& head_dims) {
  std::vector<Target> targets;
  const auto add_main = [&](const Problem& p) {
    targets.push_back({plan_cuda_backward(p, *known_gpu("sm_90a")).main(), "sm_90a"});
  };
  for (const auto& [head_dim, head_dim_v] : head_dims) {
    for (const bool causal : {false, true}) {
      add_main(training(bfloat16, head_dim, head_dim_v, causal));
    }
    Problem other = training(float16, head_dim, head_dim_v, true);
    other.run.deterministic = true;
    add_main(other);
  }
  return targets;
}

TEST(Hopper, BackwardFitsTheGpu) {
  expect_fits(hopper_backward(narrow_heads), most_of_hopper_backward,
              most_in_loops_of_hopper_backward);
}

TEST(Hopper, BackwardOfWideHeadsFitsTheGpu) {
  expect_fits(hopper_backward(wide_heads), most_of_hopper_wide_backward,
              most_in_loops_of_hopper_wide_backward);
}

TEST(Options, InAllPairsFit) {
  std::vector<Target> all = sample();
  const auto hopper = std::ranges::partition(
      all, [](const Target& target) { return target.spec.entry != "fa_sm90_backward"; });
  expect_fits({hopper.begin(), hopper.end()}, most_with_options_of_hopper_backward,
              most_in_loops_with_options_of_hopper_backward);
  all.erase(hopper.begin(), hopper.end());
  expect_fits(all, most_with_options, most_in_loops_with_options_of_hopper_backward,
              most_in_loops_with_options_of_hopper_forward);
}

/// With what wants registers.
Problem with_options(int64_t head_dim, int64_t head_dim_v) {
  Problem p;
  p.device = {cuda_device, 0};
  p.dtype = bfloat16;
  p.batch = 1;
  p.q.heads = p.k.heads = 4;
  p.head_dim = head_dim;
  p.head_dim_v = head_dim_v;
  p.q.seqlen = p.k.seqlen = p.q.tokens = p.k.tokens = 4096;
  p.score.window_right = 0;
  p.score.softcap = 20;
  p.score.alibi = true;
  p.dropout_p = 0.1;
  p.wants.lse = true;
  return p;
}

/// Head dims beyond 256.
std::vector<Target> wide_targets() {
  std::vector<Target> targets;
  for (const GpuLimits& gpu : known_gpus()) {
    for (const auto& [head_dim, head_dim_v] :
         {std::pair<int64_t, int64_t>{264, 264}, {384, 384}, {512, 512}, {64, 512}, {512, 64}}) {
      const Problem p = with_options(head_dim, head_dim_v);
      targets.push_back({plan_cuda_forward(p, gpu).main(), gpu.arch});
    }
  }
  return targets;
}

TEST(WideHeads, FitTheGpu) { expect_fits(wide_targets(), most_of_wide); }

/// Their backward pass, on the GPUs whose tiles differ; the preset has plain ones for all.
std::vector<Target> wide_backward_targets() {
  std::vector<Target> targets;
  for (const char* arch : archs_of_tiles) {
    for (const auto& [head_dim, head_dim_v] :
         {std::pair<int64_t, int64_t>{264, 264}, {512, 64}, {512, 512}, {576, 512}}) {
      Problem p = with_options(head_dim, head_dim_v);
      p.pass = Pass::backward;
      targets.push_back({plan_cuda_backward(p, *known_gpu(arch)).main(), arch});
    }
  }
  return targets;
}

TEST(WideHeads, BackwardFitsTheGpu) { expect_fits(wide_backward_targets(), most_of_wide_backward); }

/// What bench/ablation runs.
std::vector<Target> ablation_targets() {
  std::vector<Target> targets;
  for (const char* arch : archs_of_tiles) {
    for (const int64_t head_dim : {64, 128}) {
      Problem p;
      p.device = {cuda_device, 0};
      p.dtype = bfloat16;
      p.batch = 1;
      p.q.heads = p.k.heads = 2048 / head_dim;
      p.head_dim = p.head_dim_v = head_dim;
      p.q.seqlen = p.k.seqlen = p.q.tokens = p.k.tokens = 16384;
      p.score.window_right = head_dim == 64 ? 0 : -1;
      p.wants.lse = true;
      const GpuLimits& gpu = *known_gpu(arch);
      for (const bench::Variant& variant : bench::variants(p, gpu)) {
        targets.push_back({plan_cuda_forward(p, gpu, variant.tuning).main(), arch});
      }
    }
  }
  return targets;
}

TEST(Ablation, FitsTheGpu) { expect_fits(ablation_targets(), most_of_ablation); }

/// Compiles what all tests want at once, the long ones first, where all tests run: one after the
/// other, each would end with a long kernel on one core.
class Ahead : public testing::Environment {
  void SetUp() override {
    if (GTEST_FLAG_GET(filter) != "*") return;
    std::vector<Target> all = sample();
    const auto add_all = [&](const std::vector<Target>& more) {
      all.insert(all.end(), more.begin(), more.end());
    };
    add_all(hopper_backward(narrow_heads));
    add_all(hopper_backward(wide_heads));
    for (const std::string& arch : archs()) {
      for (const char* preset : {"llm", "llm-backward"}) add_all(targets_of(preset, arch));
    }
    add_all(wide_targets());
    add_all(wide_backward_targets());
    add_all(ablation_targets());
    std::ranges::stable_partition(all,
                                  [](const Target& target) { return is_of_hopper(target.spec); });
    // What cannot be compiled fails the test that wants it.
    const auto try_one = [&](int64_t i) { EXPECT_NO_THROW(compiled(all[i])); };
    parallel_for(static_cast<int64_t>(all.size()), 0, try_one);
  }
};
const testing::Environment* const ahead = testing::AddGlobalTestEnvironment(new Ahead);

}  // namespace
}  // namespace fa::cuda
