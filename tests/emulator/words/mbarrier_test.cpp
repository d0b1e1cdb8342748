// Barriers that count arrivals and bytes, named barriers beside them, and what stops a run.
#include "ptx/mbarrier.cuh"

#include <gtest/gtest.h>

#include "emulator/launched.hpp"
#include "ptx/barrier.cuh"
#include "ptx/bulk_copy.cuh"
#include "ptx/shared.cuh"

namespace {

using namespace fa::ptx;
using emulator::Memory;
using emulator::run;
using emulator::shared_base;

constexpr u32 barrier = shared_base, data = shared_base + 1024;

void make(int arrivals) {
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, arrivals);
    fence_mbarrier_init();
  }
  __syncthreads();
}

TEST(Mbarrier, PhasesFollowEachOther) {
  for (unsigned seed = 1; seed <= 10; ++seed) {
    constexpr int phases = 7;
    std::vector<int> seen(phases, 0);
    int arrived = 0;
    run({.threads = 96, .shared_bytes = 1024, .seed = seed}, [&] {
      make(64);
      for (u32 phase = 0; phase < phases; ++phase) {
        if (threadIdx.x < 64) {
          ++arrived;
          mbarrier_arrive(barrier);
          mbarrier_wait(barrier, phase % 2);
        } else {
          mbarrier_wait(barrier, phase % 2);
          if (threadIdx.x == 64) seen[phase] = arrived;
        }
        __syncthreads();
      }
    });
    for (int phase = 0; phase < phases; ++phase) EXPECT_EQ(seen[phase], 64 * (phase + 1));
  }
}

TEST(Mbarrier, PhaseOfANewBarrierBeforeItsFirstHasEnded) {
  run({.threads = 32, .shared_bytes = 1024}, [] {
    make(1);
    mbarrier_wait(barrier, 1);
  });
}

TEST(Mbarrier, WaitsForBytesToo) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    std::vector<float> numbers(96);
    for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i + seed);
    const Memory<float> from(numbers), to(96);
    run({.threads = 96, .shared_bytes = 2048, .seed = seed}, [&] {
      make(2);
      if (threadIdx.x == 0) {  // three copies, of which two belong to the second arrival
        mbarrier_arrive_expect(barrier, 128);
        bulk_load(data, from.data(), 128, barrier);
        bulk_load(data + 128, from.data() + 32, 128, barrier);
        bulk_load(data + 256, from.data() + 64, 128, barrier);
        mbarrier_arrive_expect(barrier, 256);
      }
      mbarrier_wait(barrier, 0);
      to[threadIdx.x] = load_float(data + 4 * threadIdx.x);
    });
    EXPECT_EQ(to.copy(), numbers);
  }
}

TEST(MbarrierDeathTest, TooManyArrivals) {
  const auto twice = [] {
    make(1);
    if (threadIdx.x == 0) {
      mbarrier_arrive_expect(barrier, 16);
      mbarrier_arrive(barrier);
    }
  };
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 2048}, twice), "more arrivals");
}

void load(int expected) {
  static const Memory<float> from(64);
  make(1);
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect(barrier, expected);
    bulk_load(data, from.data(), 256, barrier);
  }
  mbarrier_wait(barrier, 0);
}
TEST(MbarrierDeathTest, TooManyBytes) {
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 2048}, [] { load(128); }), "more bytes");
}
TEST(MbarrierDeathTest, TooFewBytes) {
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 2048}, [] { load(512); }),
               "wait for each other: 32 for an mbarrier");
}

TEST(MbarrierDeathTest, NobodyArrives) {
  const auto wait = [] {
    make(2);
    if (threadIdx.x == 0) mbarrier_arrive(barrier);
    mbarrier_wait(barrier, 0);
  };
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 1024}, wait), "wait for each other");
}

TEST(MbarrierDeathTest, NotFencedBeforeACopy) {
  const Memory<float> from(4);
  const auto load = [&] {
    if (threadIdx.x == 0) mbarrier_init(barrier, 1);
    __syncthreads();
    if (threadIdx.x == 0) bulk_load(data, from.data(), 16, barrier);
  };
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 2048}, load), "no fence");
}

TEST(MbarrierDeathTest, Overwritten) {
  const auto overwrite = [] {
    make(1);
    if (threadIdx.x == 0) {
      store_shared(barrier, 0u);
      mbarrier_arrive(barrier);
    }
  };
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 1024}, overwrite), "overwritten");
}

TEST(MbarrierDeathTest, MadeTwice) {
  const auto twice = [] {
    make(1);
    make(1);
  };
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 1024}, twice), "made twice");
}

TEST(MbarrierDeathTest, Nowhere) {
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 1024}, [] { mbarrier_arrive(shared_base); }),
               "no mbarrier");
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 1024}, [] { mbarrier_init(0, 1); }), "outside");
}

}  // namespace
