// Bulk copies of random sizes and places, beside memcpy, and what stops a run.
#include "ptx/bulk_copy.cuh"

#include <gtest/gtest.h>

#include "emulator/launched.hpp"
#include "ptx/mbarrier.cuh"
#include "ptx/proxy.cuh"
#include "ptx/shared.cuh"

namespace {

using namespace fa::ptx;
using emulator::Memory;
using emulator::run;
using emulator::shared_base;

constexpr u32 barrier = shared_base, data = shared_base + 1024;
constexpr size_t most = 512;  // floats

std::vector<float> numbers(size_t count, std::mt19937& random) {
  std::vector<float> all(count);
  for (float& x : all) x = static_cast<float>(random() % 1000);
  return all;
}

struct Piece {
  size_t from, to, floats;  ///< in floats, multiples of 4

  explicit Piece(std::mt19937& random)
      : from(random() % (most / 8) * 4),
        to(random() % (most / 8) * 4),
        floats(4 + random() % (most / 8) * 4) {}
};

TEST(BulkCopy, Loads) {
  std::mt19937 random(1);
  for (unsigned seed = 1; seed <= 30; ++seed) {
    const std::vector<float> all = numbers(most, random);
    const Piece piece(random);
    const Memory<float> from(all), to(piece.floats);
    const auto bytes = static_cast<int>(piece.floats * sizeof(float));
    const u32 place = data + static_cast<u32>(4 * piece.to);
    run({.threads = 64, .shared_bytes = 8192, .seed = seed}, [&] {
      if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(barrier, bytes);
        bulk_load(place, from.data() + piece.from, bytes, barrier);
      }
      __syncthreads();
      mbarrier_wait(barrier, 0);
      for (u32 i = threadIdx.x; i < piece.floats; i += 64) to[i] = load_float(place + 4 * i);
    });
    EXPECT_EQ(to.copy(),
              std::vector<float>(all.data() + piece.from, all.data() + piece.from + piece.floats));
  }
}

/// Stores 512 numbers of shared memory, and copies a piece of them.
template <typename Copy>
void copy_out(const std::vector<float>& all, unsigned seed, const Copy& copy) {
  run({.threads = 64, .shared_bytes = 8192, .seed = seed}, [&] {
    for (u32 i = threadIdx.x; i < most; i += 64)
      store_shared(data + 4 * i, __float_as_uint(all[i]));
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x != 7) return;
    copy();
    bulk_commit();
    bulk_wait_read<0>();
  });
}

TEST(BulkCopy, StoresAndAdds) {
  std::mt19937 random(2);
  for (unsigned seed = 1; seed <= 30; ++seed) {
    const std::vector<float> all = numbers(most, random), before = numbers(most, random);
    const Piece piece(random);
    const auto bytes = static_cast<int>(piece.floats * sizeof(float));
    const u32 place = data + static_cast<u32>(4 * piece.from);
    const Memory<float> stored(before), added(before);
    copy_out(all, seed, [&] {
      bulk_store(stored.data() + piece.to, place, bytes);
      bulk_add(added.data() + piece.to, place, bytes);
      bulk_add(added.data() + piece.to, place, bytes);
    });
    for (size_t i = 0; i < most; ++i) {
      const bool within = i >= piece.to && i < piece.to + piece.floats;
      const float x = within ? all[i - piece.to + piece.from] : 0;
      EXPECT_EQ(stored[i], within ? x : before[i]);
      EXPECT_EQ(added[i], before[i] + 2 * x);
    }
  }
}

/// A group whose reading was waited for may be written anew; the others not yet.
TEST(BulkCopy, GroupsAreWaitedForInOrder) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const Memory<float> to(8);
    run({.threads = 32, .shared_bytes = 8192, .seed = seed}, [&] {
      if (threadIdx.x != 0) return;
      for (u32 i = 0; i < 6; ++i) {
        const u32 place = data + i % 2 * 16;
        if (i >= 2) bulk_wait_read<1>();
        const u32 x = __float_as_uint(static_cast<float>(i));
        store_shared(place, uint4{x, x, x, x});
        fence_proxy_async();
        bulk_add(to.data() + i % 2 * 4, place, 16);
        bulk_commit();
        if (i == 1) {
          bulk_wait<0>();
          EXPECT_NE(to[4], to[4]);  // NaN, to which was added
          for (size_t j = 0; j < 8; ++j) to[j] = 0;
        }
      }
      bulk_wait<0>();
      for (size_t j = 0; j < 8; ++j) EXPECT_EQ(to[j], j < 4 ? 2 + 4 : 3 + 5);
    });
  }
}

TEST(BulkCopyDeathTest, Misaligned) {
  const Memory<float> to(64);
  EXPECT_DEATH(copy_out(std::vector<float>(most), 1, [&] { bulk_store(to.data(), data, 24); }),
               "16-byte pieces");
  EXPECT_DEATH(copy_out(std::vector<float>(most), 1, [&] { bulk_store(to.data(), data + 4, 16); }),
               "16-byte pieces");
  EXPECT_DEATH(copy_out(std::vector<float>(most), 1, [&] { bulk_store(to.data() + 1, data, 16); }),
               "16-byte pieces");
}

TEST(BulkCopyDeathTest, OutOfSharedMemory) {
  const Memory<float> to(64);
  EXPECT_DEATH(
      copy_out(std::vector<float>(most), 1, [&] { bulk_store(to.data(), shared_base + 8192, 16); }),
      "outside of a block's shared memory");
}

TEST(BulkCopyDeathTest, StoresAreNotFenced) {
  const Memory<float> to(64);
  const auto body = [&] {
    store_shared(data + 4 * threadIdx.x, 1u);
    if (threadIdx.x == 5) fence_proxy_async();  // of its own store alone
    __syncthreads();
    if (threadIdx.x != 5) return;
    bulk_store(to.data(), data, 128);
    bulk_commit();
    bulk_wait_read<0>();
  };
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 2048}, body), "without fence.proxy.async");
}

TEST(BulkCopyDeathTest, NobodyWaits) {
  const Memory<float> to(64);
  const auto begin = [&] {
    if (threadIdx.x == 0) bulk_store(to.data(), data, 128);
  };
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 2048}, begin), "nobody can wait for");
  const auto commit = [&] {
    if (threadIdx.x != 0) return;
    bulk_store(to.data(), data, 128);
    bulk_commit();
  };
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 2048}, commit), "before its copies have read");
}

TEST(BulkCopyDeathTest, TwoCopiesMeet) {
  const Memory<float> from(64);
  const auto body = [&] {
    if (threadIdx.x != 0) return;
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, 512);
    for (int i = 0; i < 9; ++i) bulk_load(data + 16, from.data(), 64, barrier);
  };
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 2048}, body), "a copy meets");
}

}  // namespace
