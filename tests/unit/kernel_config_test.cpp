// The Config of a kernel and its program.
#include "plan/cuda/kernel_config.hpp"

#include <gtest/gtest.h>

namespace fa {
namespace {

TEST(KernelConfig, HasWhatDiffersFromTheDefaults) {
  KernelConfig config;
  config.format("element", true, bfloat16)
      .number("head_dim", 64)
      .flag("lse", true)
      .flag("split", false)
      .flag("positive_scale", false, true)
      .format("bias", false, float32);
  EXPECT_EQ(config.constants(), "element=bfloat16 head_dim=64 lse positive_scale=false");
  EXPECT_EQ(KernelConfig().constants(), "");
  const KernelSpec spec =
      kernel_spec({"entry", {"a.cuh", "b.cuh"}, "Defaults", "Run<Config>"}, config, 64, 2, 1024);
  EXPECT_EQ(spec.program, R"(#include "a.cuh"
#include "b.cuh"
struct Config : Defaults {
  static constexpr fa::kernel::Number element = fa::kernel::Number::bfloat16;
  static constexpr int head_dim = 64;
  static constexpr bool lse = true;
  static constexpr bool positive_scale = false;
};
using Kernel = Run<Config>;
extern "C" __global__ void __launch_bounds__(64, 2)
    entry(const __grid_constant__ Kernel::Params p) {
  Kernel::run(p);
}
)");
}

TEST(KernelConfig, AClusterIsWritten) {
  const KernelSpec spec =
      kernel_spec({"entry", {"a.cuh"}, "Defaults", "Run<Config>", 2}, KernelConfig(), 64);
  EXPECT_NE(spec.program.find("__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(64)\n"),
            std::string::npos)
      << spec.program;
}

}  // namespace
}  // namespace fa
