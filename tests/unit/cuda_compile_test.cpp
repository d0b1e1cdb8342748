// The shipped kernels through a real NVRTC (tools/with_nvrtc), for every known GPU: they compile
// without a warning, and fit the registers and the shared memory that the plan counts on.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <vector>

#include "check/generate.hpp"
#include "check/problems.hpp"
#include "cuda/compiler.hpp"
#include "cuda/cubin.hpp"
#include "cuda/kernel_store.hpp"
#include "cuda/nvrtc.hpp"
#include "cuda/parallel.hpp"
#include "cuda/precompile.hpp"
#include "plan/cuda_plan.hpp"
#include "plan/kernel_config.hpp"

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
  EXPECT_EQ(warnings, "") << arch << " " << spec.entry << ": " << constants_text(spec.config);
  if (warnings.empty()) store.cache().store(name, code);
  return code;
}

/// Blocks of a multiprocessor that the kernel was compiled for.
int min_blocks(const KernelSpec& spec) {
  const std::string name = "constexpr int min_blocks = ";
  const size_t at = spec.config.find(name);
  return at == spec.config.npos ? 1 : std::stoi(spec.config.substr(at + name.size()));
}

/// A kernel whose registers are spilled to more than `most` bytes, or of which fewer blocks run
/// than planned.
void expect_fits(const std::vector<Target>& targets, int most) {
  std::mutex printing;
  parallel_for(static_cast<int64_t>(targets.size()), 0, [&](int64_t i) {
    const auto& [spec, arch] = targets[i];
    const CubinUse use = cubin_use(compiled(targets[i]), spec.entry);
    const GpuLimits& gpu = *known_gpu(arch);
    const int blocks = resident_blocks(gpu, spec.threads, use.registers, spec.shared_bytes);
    if (use.local_bytes <= most && blocks >= min_blocks(spec) &&
        spec.shared_bytes <= gpu.shared_per_block) {
      return;
    }
    const std::lock_guard lock(printing);
    ADD_FAILURE() << fmt::format(
        "{} {}: {} threads, {} registers, {} bytes spilled, {} bytes of shared memory, {} blocks "
        "of a multiprocessor: {}",
        arch, spec.entry, spec.threads, use.registers, use.local_bytes, spec.shared_bytes, blocks,
        constants_text(spec.config));
  });
}

class EveryGpu : public testing::TestWithParam<GpuLimits> {};

TEST_P(EveryGpu, RunsThePresetWithoutSpills) {
  expect_fits(preset_targets("llm", {GetParam().arch}), 0);
}

INSTANTIATE_TEST_SUITE_P(Kernels, EveryGpu, testing::ValuesIn(known_gpus()),
                         [](const auto& gpu) { return gpu.param.arch; });

/// Kernels of configurations that cover all pairs of options, as the tests on a device draw them,
/// each for one of the GPUs.
std::vector<Target> sample(uint64_t seed, int64_t configurations) {
  const check::Problems problems(seed, check::cuda_offer, configurations);
  const auto gpus = known_gpus();
  std::vector<Target> targets;
  for (int64_t n = 0; n < configurations; ++n) {
    const check::Case c(problems.draw(n));
    Problem p = validate(c.forward_args(), c.options(), Data::optional).problem;
    p.device = {cuda_device, 0};
    const GpuLimits& gpu = gpus[n % gpus.size()];
    const CudaPlan plan = plan_cuda(p, gpu);
    targets.push_back({plan.forward, gpu.arch});
    if (plan.combine) targets.push_back({*plan.combine, gpu.arch});
  }
  return targets;
}

TEST(Kernels, WithAnyOptionsSpillLittle) { expect_fits(sample(1, 60), 0); }

}  // namespace
}  // namespace fa::cuda
