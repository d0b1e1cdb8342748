// Where threads meet: warps, warp groups, named barriers; and additions to global memory.
#include <gtest/gtest.h>

#include <algorithm>

#include "common/descriptor.h"
#include "emulator/launched.hpp"
#include "ptx/barrier.cuh"
#include "ptx/reduce.cuh"
#include "ptx/warp_group.cuh"
#include "ptx/wgmma.cuh"

namespace {

using namespace fa::ptx;
using emulator::Memory;
using emulator::run;

TEST(Join, OneLaneOfEachWarpIsElected) {
  std::vector<int> elected(4, 0), lanes;
  run({.threads = 128}, [&] {
    for (int i = 0; i < 3; ++i) {
      if (!elect()) continue;
      ++elected[threadIdx.x / 32];
      lanes.push_back(static_cast<int>(threadIdx.x % 32));
    }
  });
  EXPECT_EQ(elected, (std::vector<int>{3, 3, 3, 3}));
  EXPECT_EQ(std::count(lanes.begin(), lanes.end(), lanes[0]), 12);
}

TEST(Join, RegistersAreGivenAndTaken) {
  int went_on = 0;
  run({.threads = 256}, [&] {
    threadIdx.x < 128 ? give_registers<24>() : take_registers<240>();
    ++went_on;
  });
  EXPECT_EQ(went_on, 256);
}

/// Warps 0 to 3 wait for warps 4 to 7, which do not wait for them, by one barrier; then all by
/// another.
TEST(Join, NamedBarriersWaitAndArrive) {
  for (unsigned seed = 1; seed <= 10; ++seed) {
    int there = 0, least = 1000;
    run({.threads = 256, .seed = seed}, [&] {
      for (int round = 1; round <= 5; ++round) {
        if (threadIdx.x >= 128) {
          ++there;
          barrier_arrive<256>(3);
        } else {
          barrier_sync<256>(3);
          least = std::min(least, there - 128 * round);
        }
        barrier_sync<256>(4);
      }
    });
    EXPECT_EQ(least, 0);
  }
}

TEST(JoinDeathTest, ALaneIsMissing) {
  const auto fence = [] {
    if (threadIdx.x != 100) wgmma_fence();
  };
  EXPECT_DEATH(run({.threads = 128}, fence),
               "wait for each other: 31 for the other lanes of their warp;");
}

constexpr u64 descriptor = fa::kernel::descriptor_at(
    fa::kernel::descriptor_of(fa::kernel::Swizzle::none, 128, 256), emulator::shared_base);

template <int tiles>
void multiply(bool add, u64 b) {
  float d[tiles][4];
  wgmma_fence(d);
  wgmma<fa::kernel::Number::bfloat16, fa::kernel::Major::k, fa::kernel::Major::k>(d, descriptor, b,
                                                                                  add);
  wgmma_commit();
  wgmma_wait<0>(d);
}

TEST(JoinDeathTest, WarpsOfAGroupDoDifferentThings) {
  const emulator::Launch shape{.threads = 128, .shared_bytes = 8192};
  EXPECT_DEATH(
      run(shape,
          [] { threadIdx.x < 64 ? multiply<1>(true, descriptor) : multiply<2>(true, descriptor); }),
      "differ in what they multiply");
  EXPECT_DEATH(run(shape, [] { multiply<1>(threadIdx.x != 77, descriptor); }),
               "differ in what they multiply");
  EXPECT_DEATH(run(shape, [] { multiply<1>(true, descriptor + threadIdx.x / 32); }),
               "differ in what they multiply");
  const auto one_warp_waits = [] {
    if (threadIdx.x >= 32) multiply<1>(true, descriptor);
  };
  EXPECT_DEATH(run(shape, one_warp_waits), "96 for the other lanes of their warp group;");
}

TEST(JoinDeathTest, LanesOfAWarpPart) {
  const auto body = [] { threadIdx.x % 32 == 5 ? wgmma_commit() : wgmma_fence(); };
  EXPECT_DEATH(run({.threads = 128}, body), "lanes of a warp have parted");
}

TEST(JoinDeathTest, NoWholeGroup) {
  EXPECT_DEATH(run({.threads = 96, .shared_bytes = 8192}, [] { multiply<1>(true, descriptor); }),
               "no 128 threads");
}

TEST(Join, AdditionsToGlobalMemory) {
  const Memory<float> sums(std::vector<float>(8, 1.0f));
  run({.grid = {5, 1, 1}, .threads = 64}, [&] {
    add_global(sums.data() + threadIdx.x % 4, static_cast<float>(threadIdx.x));
    const float four[4] = {1, 2, 3, 4};
    add_global(sums.data() + 4, four);
  });
  for (size_t i = 0; i < 4; ++i) {
    float sum = 1;
    for (size_t thread = i; thread < 64; thread += 4) sum += 5 * static_cast<float>(thread);
    EXPECT_EQ(sums[i], sum);
    EXPECT_EQ(sums[4 + i], 1 + 320 * static_cast<float>(i + 1));
  }
}

}  // namespace
