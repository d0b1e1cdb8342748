// Matrices of 8 x 8 numbers between registers and shared memory, beside plain loops.
#include <gtest/gtest.h>

#include "emulator/launched.hpp"
#include "ptx/shared.cuh"

namespace {

using namespace fa::ptx;
using emulator::Memory;
using emulator::run;
using emulator::shared_base;

// Row r of matrix m lies at a place of its own: no two lanes' rows follow each other.
constexpr u32 place_of(u32 row) { return shared_base + 1024 + 16 * (row * 5 % 32); }

/// What lane l holds of matrix m: elements 2 (l % 4), + 1 of row l / 4.
constexpr u32 pair_of(u32 lane, u32 matrix) {
  const u32 first = 64 * matrix + 8 * (lane / 4) + lane % 4 * 2;
  return first | (first + 1) << 16;
}

TEST(Matrix, StoresRowsOfEightNumbers) {
  const Memory<float> read(size_t{4} * 64);
  run({.threads = 32, .shared_bytes = 4096, .seed = 1}, [&] {
    const u32 lane = threadIdx.x;
    const u32 mine[4] = {pair_of(lane, 0), pair_of(lane, 1), pair_of(lane, 2), pair_of(lane, 3)};
    stmatrix(place_of(lane), mine);
    __syncthreads();
    const uint4 row = load_shared(place_of(lane));
    const u32 words[] = {row.x, row.y, row.z, row.w};
    for (u32 i = 0; i < 8; ++i) {
      read[8 * lane + i] = static_cast<float>(words[i / 2] >> (i % 2 * 16) & 0xffff);
    }
  });
  for (u32 i = 0; i < 256; ++i) EXPECT_EQ(read[i], static_cast<float>(i)) << "number " << i;
}

TEST(Matrix, LoadsWhatWasStored) {
  const Memory<float> same(32);
  run({.threads = 32, .shared_bytes = 4096, .seed = 2}, [&] {
    const u32 lane = threadIdx.x;
    const u32 mine[4] = {pair_of(lane, 0), pair_of(lane, 1), pair_of(lane, 2), pair_of(lane, 3)};
    stmatrix(place_of(lane), mine);
    __syncthreads();
    u32 back[4];
    ldmatrix(back, place_of(lane));
    bool equal = true;
    for (int i = 0; i < 4; ++i) equal = equal && back[i] == mine[i];
    same[lane] = equal ? 1 : 0;
  });
  for (u32 lane = 0; lane < 32; ++lane) EXPECT_EQ(same[lane], 1) << "lane " << lane;
}

}  // namespace
