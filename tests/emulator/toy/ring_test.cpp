// A producer and two consumers on the emulator: right without a fault, and each fault is noticed.
#include "toy/ring.cuh"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "emulator/launched.hpp"

namespace {

using emulator::Memory;
using emulator::Numbers;
using fa::kernel::Swizzle;
using fa::toy::Fault;

struct Shape {
  size_t rows, columns, depth;
};

/// The largest error of C, NaN where something of it is.
template <Fault fault>
float error_of(const Shape& shape, unsigned seed) {
  std::mt19937 random(seed);
  const auto [rows, columns, depth] = shape;
  const Numbers a(rows * depth, random), b(depth * columns, random);
  const Memory<unsigned short> a_there(a.bits), b_there(b.bits);
  const Memory<float> c(rows * columns);

  using namespace fa::toy;
  RingParams p{};
  emulator::encode(p.a, a_there.data(), {depth, rows}, {2 * depth}, {slice, tile_rows},
                   Swizzle::within_128);
  emulator::encode(p.b, b_there.data(), {columns, depth}, {2 * columns}, {panel, slice},
                   Swizzle::within_128);
  emulator::encode(p.c, c.data(), {columns, rows}, {4 * columns}, {32, group_rows},
                   Swizzle::within_128);
  p.slices = static_cast<int>((depth + slice - 1) / slice);
  const auto blocks = static_cast<unsigned>((rows + tile_rows - 1) / tile_rows);
  emulator::run({.grid = {blocks, 1, 1},
                 .threads = threads,
                 .shared_bytes = fa::toy::shared_bytes,
                 .seed = seed},
                [&] { multiply_by_ring<fault>(p, emulator::shared_base); });

  float largest = 0;
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < columns; ++j) {
      float sum = 0;
      for (size_t k = 0; k < depth; ++k) sum += a.values[i * depth + k] * b.values[k * columns + j];
      const float error = std::fabs(c[i * columns + j] - sum);
      if (!(error <= largest)) largest = error;
      if (std::isnan(error)) return error;
    }
  }
  return largest;
}

TEST(Ring, MultipliesRightInAnyOrder) {
  for (const Shape& shape : {Shape{128, 128, 64}, {200, 104, 296}, {300, 128, 520}}) {
    for (unsigned seed = 1; seed <= 3; ++seed) {
      EXPECT_LE(error_of<Fault::none>(shape, seed), 1e-3) << shape.rows << " " << seed;
    }
  }
}

/// Ends the program: 0 for a right result, 3 with a word for a wrong one. Or the emulator stops it.
template <Fault fault>
[[noreturn]] void run_with(unsigned seed) {
  const float error = error_of<fault>({128, 128, 320}, seed);
  if (error <= 1e-3f) std::exit(0);
  std::fprintf(stderr, std::isnan(error) ? "poison in the result" : "wrong numbers");
  std::exit(3);
}
bool noticed(int status) {
  return WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 3);
}
template <Fault fault>
void expect_noticed(const char* how) {
  for (unsigned seed = 1; seed <= 4; ++seed) {
    EXPECT_EXIT(run_with<fault>(seed), noticed, how) << "seed " << seed;
  }
}

TEST(FaultDeathTest, ArriveMissing) {
  expect_noticed<Fault::arrive_missing>("wait for each other: 257 for an mbarrier");
}
TEST(FaultDeathTest, EmptyWaitMissing) {
  expect_noticed<Fault::empty_wait_missing>("more arrivals");
}
TEST(FaultDeathTest, ReleasedEarly) {
  expect_noticed<Fault::released_early>("poison in the result");
}
TEST(FaultDeathTest, FullWaitMissing) {
  expect_noticed<Fault::full_wait_missing>("more arrivals|a block ends while a copy");
}
TEST(FaultDeathTest, ParityWrong) {
  expect_noticed<Fault::parity_wrong>("more arrivals|wait for each other");
}
TEST(FaultDeathTest, BytesTooFew) {
  expect_noticed<Fault::bytes_too_few>("more bytes|a copy meets|a block ends");
}
TEST(FaultDeathTest, BytesTooMany) {
  expect_noticed<Fault::bytes_too_many>("wait for each other: 257 for an mbarrier");
}
TEST(FaultDeathTest, ProductWaitMissing) {
  expect_noticed<Fault::product_wait_missing>("ends before its products");
}
TEST(FaultDeathTest, ProductFenceMissing) {
  expect_noticed<Fault::product_fence_missing>("without wgmma.fence");
}
TEST(FaultDeathTest, ProxyFenceMissing) {
  expect_noticed<Fault::proxy_fence_missing>("without fence.proxy.async");
}
TEST(FaultDeathTest, GroupBarrierMissing) {
  expect_noticed<Fault::group_barrier_missing>("poison in the result");
}
TEST(FaultDeathTest, StoreWaitMissing) {
  expect_noticed<Fault::store_wait_missing>("before its copies have read");
}
TEST(FaultDeathTest, InitFenceMissing) {
  expect_noticed<Fault::init_fence_missing>("with no fence after it was made");
}
TEST(FaultDeathTest, DescriptorWrong) { expect_noticed<Fault::descriptor_wrong>("wrong numbers"); }
TEST(FaultDeathTest, LaneAlone) {
  expect_noticed<Fault::lane_alone>(
      "31 for the other lanes of their warp; 96 for the other lanes of their");
}

}  // namespace
