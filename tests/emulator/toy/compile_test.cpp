// Hopper's words through a real NVRTC (tools/with_nvrtc): they are PTX, and ptxas has nothing to
// say, as it would where it serializes wgmma.
#include <gtest/gtest.h>

#include "cuda/runtime/compiler.hpp"
#include "cuda/runtime/cubin.hpp"
#include "toy/source.hpp"

namespace fa::toy {
namespace {

std::vector<char> compiled(const KernelSpec& spec) {
  std::string warnings;
  std::vector<char> code = cuda::compile(spec, "sm_90a", sources(), &warnings);
  EXPECT_EQ(warnings, "");
  return code;
}

TEST(Compile, RingAndExchange) {
  for (const KernelSpec& spec : {ring_spec(), exchange_spec()}) {
    EXPECT_EQ(cuda::cubin_use(compiled(spec), spec.entry).local_bytes, 0) << spec.entry;
  }
}

TEST(Compile, AllShapesOfWgmma) {
  for (const bool a_in_registers : {false, true}) {
    const std::vector<char> code = compiled(shapes_spec(a_in_registers));
    for (int tiles = 1; tiles <= 32; ++tiles) {
      const std::string entry = "fa_toy_shape_" + std::to_string(tiles);
      EXPECT_EQ(cuda::cubin_use(code, entry).local_bytes, 0) << entry;
    }
  }
}

}  // namespace
}  // namespace fa::toy
