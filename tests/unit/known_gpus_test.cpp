// The limits of the GPUs that plans are made for.
#include <gtest/gtest.h>

#include "plan/cuda/gpu.hpp"

namespace fa {
namespace {

TEST(KnownGpus, AreFoundByArchitecture) {
  for (const GpuLimits& gpu : known_gpus()) {
    EXPECT_EQ(known_gpu(gpu.arch), &gpu);
    EXPECT_EQ(gpu.shared_per_sm - gpu.shared_per_block, 1024) << "which a block takes for itself";
  }
  EXPECT_EQ(known_gpu("sm_70"), nullptr);
}

// From CUDA's occupancy calculator.
TEST(KnownGpus, RunAsManyBlocksAsFit) {
  const GpuLimits &a100 = *known_gpu("sm_80"), &ada = *known_gpu("sm_89");
  EXPECT_EQ(resident_blocks(a100, 128, 128, 48 << 10), 3);  // shared memory
  EXPECT_EQ(resident_blocks(a100, 128, 168, 8 << 10), 3);   // registers
  EXPECT_EQ(resident_blocks(a100, 128, 169, 8 << 10), 2);
  EXPECT_EQ(resident_blocks(a100, 64, 255, 0), 4);
  EXPECT_EQ(resident_blocks(a100, 96, 168, 0), 4);  // 3 warps of 12
  EXPECT_EQ(resident_blocks(a100, 256, 32, 0), 8);  // threads
  EXPECT_EQ(resident_blocks(ada, 256, 32, 0), 6);
  EXPECT_EQ(resident_blocks(a100, 32, 32, 0), 32);  // blocks
  EXPECT_EQ(resident_blocks(ada, 32, 32, 0), 24);
  EXPECT_EQ(resident_blocks(ada, 128, 32, 100 << 10), 0);
}

}  // namespace
}  // namespace fa
