// wgmma of random shapes, formats and layouts beside plain loops, and what it is strict about.
#include "ptx/wgmma.cuh"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "common/descriptor.h"
#include "common/number.h"
#include "emulator/launched.hpp"
#include "ptx/proxy.cuh"
#include "ptx/shared.cuh"

namespace {

using namespace fa::ptx;
using emulator::Numbers;
using emulator::run;
using emulator::shared_base;
using fa::kernel::Major;
using fa::kernel::Number;
using fa::kernel::Swizzle;
using u16 = unsigned short;

constexpr int most_depth = 64;

/// An operand in shared memory, as tensor copies lay it: in panels of one line's width.
struct Lies {
  u32 address;
  int side, depth;  ///< rows of A or columns of B, and k
  Major major;
  Swizzle swizzle;

  int line() const { return line_bytes(swizzle); }
  int wide() const { return line() / 2; }  ///< elements of a line
  int panel_bytes() const { return (major == Major::k ? side : depth) * line(); }
  u32 at(int i, int k) const {
    const int along = major == Major::k ? k : i, across = major == Major::k ? i : k;
    const int offset = along / wide() * panel_bytes() + across * line() + along % wide() * 2;
    return fa::kernel::swizzled(address + static_cast<u32>(offset), swizzle);
  }
  u64 descriptor(int k) const {
    const auto panel = static_cast<u32>(panel_bytes()), piece = static_cast<u32>(8 * line());
    const bool plain = swizzle == Swizzle::none;
    u64 form = fa::kernel::descriptor_of(swizzle, panel, piece);
    if (plain && major == Major::mn) form = fa::kernel::descriptor_of(swizzle, piece, panel);
    const int offset =
        major == Major::mn ? k * line() : k / wide() * panel_bytes() + k % wide() * 2;
    return fa::kernel::descriptor_at(form, address + static_cast<u32>(offset));
  }
  void store(const std::vector<u16>& bits) const {
    for (int i = 0; i < side; ++i) {
      for (int k = 0; k < depth; ++k) {
        at_shared<u16>(at(i, k)) = bits[i * depth + k];
      }
    }
  }
};

template <Number number>
std::vector<u16> as(const Numbers& x) {
  if (number == Number::bfloat16) return x.bits;
  std::vector<u16> halves;
  for (const float value : x.values) halves.push_back(static_cast<u16>(f16(value)));
  return halves;
}

/// Row and column of D of a lane's number e of tile i.
int row_of(int thread, int e) { return thread / 32 * 16 + thread % 32 / 4 + e / 2 * 8; }
int column_of(int thread, int i, int e) { return 8 * i + thread % 4 * 2 + e % 2; }

template <Number number, Major a_major, Major b_major, int tiles>
void expect_right(std::mt19937& random) {
  const int depth = 16 * static_cast<int>(1 + random() % (most_depth / 16)), columns = 8 * tiles;
  const bool a_in_registers = a_major == Major::k && random() % 2 == 0, adds = random() % 2 == 0;
  const Lies a{shared_base, 64, depth, a_major, static_cast<Swizzle>(random() % 4)};
  const Lies b{shared_base + 16384, columns, depth, b_major, static_cast<Swizzle>(random() % 4)};
  const Numbers left(64 * depth, random);
  const Numbers right(columns * depth, random);
  const std::vector<u16> left_bits = as<number>(left), right_bits = as<number>(right);
  const auto before = [](int row, int column) { return static_cast<float>(row - 2 * column); };
  std::vector<float> product(64 * columns);

  run({.threads = 128, .shared_bytes = 16384 + 65536, .seed = static_cast<unsigned>(random())},
      [&] {
        const int thread = static_cast<int>(threadIdx.x);
        if (thread == 0) {
          a.store(left_bits);
          b.store(right_bits);
        }
        __syncthreads();
        float d[tiles][4];
        for (int i = 0; i < tiles; ++i) {
          for (int e = 0; e < 4; ++e) d[i][e] = before(row_of(thread, e), column_of(thread, i, e));
        }
        wgmma_fence(d);
        for (int k = 0; k < depth; k += 16) {
          if (a_in_registers) {
            u32 registers[4];
            for (int n = 0; n < 4; ++n) {
              const int row = row_of(thread, 2 * (n % 2)), column = k + thread % 4 * 2 + n / 2 * 8;
              const u16* pair = &left_bits[row * depth + column];
              registers[n] = pair[0] | static_cast<u32>(pair[1]) << 16;
            }
            wgmma<number, b_major>(d, registers, b.descriptor(k), adds || k > 0);
          } else {
            wgmma<number, a_major, b_major>(d, a.descriptor(k), b.descriptor(k), adds || k > 0);
          }
          if (k == 16) wgmma_commit();
        }
        wgmma_commit();
        wgmma_wait<0>(d);
        for (int i = 0; i < tiles; ++i) {
          for (int e = 0; e < 4; ++e) {
            product[row_of(thread, e) * columns + column_of(thread, i, e)] = d[i][e];
          }
        }
      });

  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < columns; ++j) {
      float sum = adds ? before(i, j) : 0;
      for (int k = 0; k < depth; ++k) {
        sum += left.values[i * depth + k] * right.values[j * depth + k];
      }
      ASSERT_NEAR(product[i * columns + j], sum, 1e-3)
          << "row " << i << " column " << j << " tiles " << tiles << " swizzles "
          << static_cast<int>(a.swizzle) << " " << static_cast<int>(b.swizzle);
    }
  }
}

template <Number number, int tiles>
void expect_right_in_all_majors(std::mt19937& random) {
  for (int times = 0; times < 6; ++times) {
    expect_right<number, Major::k, Major::k, tiles>(random);
    expect_right<number, Major::k, Major::mn, tiles>(random);
    expect_right<number, Major::mn, Major::k, tiles>(random);
    expect_right<number, Major::mn, Major::mn, tiles>(random);
  }
}

TEST(Wgmma, IsAProduct) {
  std::mt19937 random(1);
  expect_right_in_all_majors<Number::bfloat16, 1>(random);
  expect_right_in_all_majors<Number::float16, 2>(random);
  expect_right_in_all_majors<Number::bfloat16, 5>(random);
  expect_right_in_all_majors<Number::float16, 8>(random);
  expect_right_in_all_majors<Number::bfloat16, 16>(random);
  expect_right_in_all_majors<Number::bfloat16, 31>(random);
  expect_right_in_all_majors<Number::float16, 32>(random);
}

/// 64 x 8 numbers 1 by 16 ones: 16 everywhere. `meanwhile` runs between the product and the wait.
constexpr Lies ones_a{shared_base, 64, 16, Major::k, Swizzle::within_32};
constexpr Lies ones_b{shared_base + 8192, 8, 16, Major::k, Swizzle::within_32};
constexpr emulator::Launch shape{.threads = 128, .shared_bytes = 16384};

template <typename Meanwhile>
std::vector<float> multiply_ones(unsigned seed, const Meanwhile& meanwhile) {
  std::vector<float> first(128);
  emulator::Launch seeded = shape;
  seeded.seed = seed;
  run(seeded, [&] {
    constexpr u16 one = 0x3f80;
    if (threadIdx.x == 0) {
      ones_a.store(std::vector<u16>(64 * 16, one));
      ones_b.store(std::vector<u16>(8 * 16, one));
    }
    __syncthreads();
    float d[1][4] = {};
    wgmma_fence(d);
    wgmma<Number::bfloat16, Major::k, Major::k>(d, ones_a.descriptor(0), ones_b.descriptor(0),
                                                true);
    wgmma_commit();
    meanwhile(d);
    wgmma_wait<0>(d);
    first[threadIdx.x] += d[0][0];
  });
  return first;
}

TEST(Wgmma, RegistersHoldPoisonUntilItIsWaitedFor) {
  const std::vector<float> right = multiply_ones(1, [](float (&)[1][4]) {});
  EXPECT_EQ(right, std::vector<float>(128, 16));
  std::vector<float> read(128);
  multiply_ones(1, [&](const float (&d)[1][4]) { read[threadIdx.x] = d[0][3]; });
  for (const float x : read) EXPECT_TRUE(std::isnan(x));
}

TEST(Wgmma, SharedMemoryIsReadUntilItIsWaitedFor) {
  std::set<float> sums;
  for (unsigned seed = 1; seed <= 10; ++seed) {
    for (const float x : multiply_ones(seed, [](const float (&)[1][4]) {
           if (threadIdx.x == 64) ones_b.store(std::vector<u16>(8 * 16, 0));
         })) {
      sums.insert(x);
    }
  }
  EXPECT_EQ(sums, (std::set<float>{0, 16}));
}

TEST(WgmmaDeathTest, RegistersAreWritten) {
  EXPECT_DEATH(multiply_ones(1, [](float (&d)[1][4]) { d[0][2] = 0; }), "were written before");
}

TEST(WgmmaDeathTest, NoFenceOrNoWait) {
  const u64 a = ones_a.descriptor(0), b = ones_b.descriptor(0);
  const auto unfenced = [&] {
    float d[1][4] = {};
    wgmma<Number::bfloat16, Major::k, Major::k>(d, a, b, true);
  };
  EXPECT_DEATH(run(shape, unfenced), "without wgmma.fence");
  const auto twice = [&] {
    float d[1][4] = {};
    wgmma_fence(d);
    for (int i = 0; i < 2; ++i) {
      wgmma<Number::bfloat16, Major::k, Major::k>(d, a, b, true);
      wgmma_commit();
      wgmma_wait<0>(d);
      for (float& x : d[0]) x *= 2;
    }
  };
  EXPECT_DEATH(run(shape, twice), "without wgmma.fence");
  const auto not_waited_for = [&] {
    float d[1][4] = {};
    wgmma_fence(d);
    wgmma<Number::bfloat16, Major::k, Major::k>(d, a, b, true);
    wgmma_commit();
    wgmma_wait<1>();
  };
  EXPECT_DEATH(run(shape, not_waited_for), "before its products");
}

TEST(WgmmaDeathTest, StoresAreNotFenced) {
  const auto body = [](bool fenced) {
    return [fenced] {
      float d[1][4] = {};
      for (u32 i = threadIdx.x; i < 4096; i += 128) store_shared(shared_base + 4 * i, 0u);
      if (fenced) fence_proxy_async();
      __syncthreads();
      wgmma_fence(d);
      wgmma<Number::bfloat16, Major::k, Major::k>(d, ones_a.descriptor(0), ones_b.descriptor(0),
                                                  true);
      wgmma_commit();
      wgmma_wait<0>(d);
      EXPECT_EQ(d[0][0], 0);
    };
  };
  run(shape, body(true));
  EXPECT_DEATH(run(shape, body(false)), "without fence.proxy.async");
}

TEST(WgmmaDeathTest, DescriptorsOfNothing) {
  const auto multiply = [](u64 a) {
    return [a] {
      float d[1][4] = {};
      wgmma_fence(d);
      wgmma<Number::bfloat16, Major::k, Major::k>(d, a, ones_b.descriptor(0), true);
      wgmma_commit();
      wgmma_wait<0>(d);
    };
  };
  EXPECT_DEATH(run(shape, multiply(0)), "out of a block's shared memory");
  EXPECT_DEATH(run(shape, multiply(ones_a.descriptor(0) + 1000)), "out of a block's");
  EXPECT_DEATH(run(shape, multiply(ones_a.descriptor(0) | 1ull << 49)), "bits that are not known");
}

}  // namespace
