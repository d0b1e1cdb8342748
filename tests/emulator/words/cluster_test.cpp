// Clusters of two blocks and more: what they do to each other's shared memory.
#include "ptx/cluster.cuh"

#include <gtest/gtest.h>

#include "emulator/launched.hpp"
#include "ptx/bulk_copy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/proxy.cuh"
#include "ptx/shared.cuh"

namespace {

using namespace fa::ptx;
using emulator::run;
using emulator::shared_base;

constexpr u32 barrier = shared_base, empty = shared_base + 8, out = shared_base + 1024,
              in = shared_base + 2048;

emulator::Launch pairs(unsigned seed, unsigned blocks = 6) {
  return {.grid = {blocks, 2, 1}, .threads = 64, .shared_bytes = 4096, .cluster = 2, .seed = seed};
}

void meet() {
  cluster_arrive();
  cluster_wait();
}
void make_barriers() {
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    mbarrier_init(empty, 64);
    fence_mbarrier_init();
  }
  meet();
}
float value(unsigned rank, unsigned i) {
  return static_cast<float>(1000 * (blockIdx.x - cluster_rank() + rank) + 10000 * blockIdx.y + i);
}

TEST(Cluster, BlocksReadEachOther) {
  for (unsigned seed = 1; seed <= 10; ++seed) {
    int right = 0;
    run(pairs(seed), [&] {
      const u32 rank = cluster_rank();
      EXPECT_EQ(rank, blockIdx.x % 2);
      store_shared(out + 4 * threadIdx.x, __float_as_uint(value(rank, threadIdx.x)));
      meet();
      const u32 other = 63 - threadIdx.x;
      right += load_remote(of_block(out, rank ^ 1) + 4 * other) == value(rank ^ 1, other);
      right += load_remote(of_block(out, rank) + 4 * other) == value(rank, other);
      meet();
    });
    EXPECT_EQ(right, 6 * 2 * 64 * 2);
  }
}

/// Each block sends numbers to the other, some by a bulk copy and some by single stores, in several
/// rounds; the other says when its place may be overwritten.
TEST(Cluster, BlocksSendToEachOther) {
  constexpr int rounds = 5;
  for (unsigned seed = 1; seed <= 10; ++seed) {
    int right = 0;
    run(pairs(seed), [&] {
      const u32 rank = cluster_rank(), peer = rank ^ 1;
      make_barriers();
      for (u32 round = 0; round < rounds; ++round) {
        mbarrier_wait_cluster(empty, round % 2 ^ 1);  // what was sent has been read here, too
        store_shared(out + 4 * threadIdx.x,
                     __float_as_uint(value(rank, threadIdx.x) + static_cast<float>(round)));
        fence_proxy_async();
        __syncthreads();
        if (threadIdx.x == 0) {
          mbarrier_arrive_expect(barrier, 256 + 64);
          bulk_to_block(of_block(in, peer), out, 256, of_block(barrier, peer));
          for (u32 i = 0; i < 4; ++i) {
            store_async(of_block(in + 256 + 16 * i, peer), {round, rank, i, 7},
                        of_block(barrier, peer));
          }
        }
        mbarrier_wait_cluster(barrier, round % 2);
        right += load_float(in + 4 * threadIdx.x) ==
                 value(peer, threadIdx.x) + static_cast<float>(round);
        const uint4 stored = load_shared(in + 256 + threadIdx.x % 4 * 16);
        right += stored.x == round && stored.y == peer && stored.z == threadIdx.x % 4;
        mbarrier_arrive_remote(of_block(empty, peer));
        __syncthreads();
      }
      meet();
    });
    EXPECT_EQ(right, 6 * 2 * 64 * rounds * 2);
  }
}

TEST(Cluster, BarrierIsOfAllBlocksAndInTwoHalves) {
  for (unsigned seed = 1; seed <= 10; ++seed) {
    int arrived = 0, wrong = 0;
    emulator::Launch four{.grid = {4, 1, 1}, .threads = 32, .cluster = 4, .seed = seed};
    run(four, [&] {
      for (int round = 1; round <= 4; ++round) {
        ++arrived;
        cluster_arrive();
        cluster_wait();
        wrong += arrived < 128 * round;
      }
    });
    EXPECT_EQ(wrong, 0);
  }
}

TEST(ClusterDeathTest, ABlockEndsTooEarly) {
  const auto body = [] {
    const u32 rank = cluster_rank();
    store_shared(out + 4 * threadIdx.x, 0u);
    meet();
    if (rank == 1) return;
    for (int i = 0; i < 100; ++i) load_remote(of_block(out, 1));
  };
  EXPECT_DEATH(run(pairs(1, 2), body), "has ended whose shared memory another one uses");
  const auto sends = [] {
    make_barriers();
    if (threadIdx.x == 0) mbarrier_arrive_expect(barrier, 256);
    if (threadIdx.x == 0 && cluster_rank() == 0) {
      bulk_to_block(of_block(in, 1), out, 256, of_block(barrier, 1));
    }
    if (cluster_rank() == 1) mbarrier_wait(barrier, 0);
  };
  EXPECT_DEATH(run(pairs(1, 2), sends), "a block ends");
}

TEST(ClusterDeathTest, OneBlockDoesNotArrive) {
  const auto body = [] {
    if (cluster_rank() == 0) meet();
    if (cluster_rank() == 1) mbarrier_wait(barrier, 0);
  };
  EXPECT_DEATH(run(pairs(1, 2), body), "no mbarrier");
  const auto waits = [] {
    if (threadIdx.x == 0) mbarrier_init(barrier, 1);
    __syncthreads();
    if (cluster_rank() == 0) meet();
    if (cluster_rank() == 1) mbarrier_wait(barrier, 0);
  };
  EXPECT_DEATH(run(pairs(1, 2), waits),
               "wait for each other: 64 for an mbarrier; 64 for the cluster's barrier");
}

TEST(ClusterDeathTest, NoSuchBlock) {
  EXPECT_DEATH(run(pairs(1, 2), [] { load_remote(of_block(out, 2)); }), "does not have");
  EXPECT_DEATH(run(pairs(1, 3), [] {}), "no whole clusters");
  EXPECT_DEATH(run(pairs(1, 2), [] { cluster_wait(); }), "has not arrived");
}

}  // namespace
