// Pages of large outputs are mapped before threads write them; nothing else is touched.
#include "cpu/map_pages.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <limits>
#include <vector>

namespace {

using fa::Problem;
using fa::Rows;

constexpr int64_t page = 4096;
constexpr int64_t pages = 64;

class MapPages : public testing::Test {
 protected:
  void SetUp() override {
#ifndef MADV_POPULATE_WRITE
    GTEST_SKIP() << "built for a Linux before 5.14";
#else
    memory_ = static_cast<char*>(
        mmap(nullptr, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory_, MAP_FAILED);
    madvise(memory_, pages * page, MADV_NOHUGEPAGE);  // where a page may bring its neighbours
    if (madvise(memory_, page, MADV_POPULATE_WRITE) != 0) GTEST_SKIP() << "refused by this kernel";
#endif
    problem_.batch = 2;
    problem_.q.heads = 4;
    problem_.head_dim_v = 64;
    problem_.q.seqlen = pages / 2 * page / bytes_of_row;
    problem_.q.tokens = 2 * problem_.q.seqlen;
    out_ = {memory_, fa::float32, problem_.q.seqlen * 4 * 64, 4 * 64, 64};
  }
  void TearDown() override {
    if (memory_ != nullptr) munmap(memory_, pages * page);
  }

  void map(int64_t index, int64_t count, int64_t least_bytes = 0) const {
    fa::cpu::map_pages(out_, problem_.q, problem_.batch, 64, least_bytes, index, count);
  }
  std::vector<bool> mapped() const {
    std::vector<unsigned char> flags(pages);
    EXPECT_EQ(mincore(memory_, pages * page, flags.data()), 0);
    std::vector<bool> result;
    for (const unsigned char flag : flags) result.push_back(flag % 2 != 0);
    return result;
  }
  /// The first one, which SetUp tried, and [begin, end).
  static std::vector<bool> first_and(int64_t begin, int64_t end) {
    std::vector<bool> result(pages);
    result[0] = true;
    for (int64_t i = begin; i < end; ++i) result[i] = true;
    return result;
  }

  static constexpr int64_t bytes_of_row = 4 * 64 * sizeof(float);
  char* memory_ = nullptr;
  Problem problem_;
  Rows out_;
};

TEST_F(MapPages, SharesCoverTheTensor) {
  map(1, 4);
  EXPECT_EQ(mapped(), first_and(16, 32));
  for (const int64_t index : {0, 2, 3}) map(index, 4);
  EXPECT_EQ(mapped(), first_and(0, pages));
}

TEST_F(MapPages, WhatIsThereStays) {
  std::memset(memory_ + 5 * page, 7, page);
  map(0, 1);
  EXPECT_EQ(mapped(), first_and(0, pages));
  EXPECT_EQ(memory_[5 * page + 11], 7);
}

TEST_F(MapPages, OnlyOfWhatTheTensorCovers) {
  problem_.q.seqlen /= 2;
  problem_.q.tokens /= 2;
  out_.batch /= 2;
  map(0, 1);
  EXPECT_EQ(mapped(), first_and(0, pages / 2));
}

TEST_F(MapPages, SmallOnesAndScatteredOnesAreLeft) {
  map(0, 1, pages * page + 1);
  EXPECT_EQ(mapped(), first_and(0, 0));
  // Every other row of half as many.
  problem_.q.seqlen /= 2;
  problem_.q.tokens /= 2;
  out_.row *= 2;
  map(0, 1);
  EXPECT_EQ(mapped(), first_and(0, 0));
  out_.row /= -2;
  map(0, 1);
  EXPECT_EQ(mapped(), first_and(0, 0));
}

// The sanitizers see the sum that overflows where it is formed.
TEST_F(MapPages, AnEmptyTensorMayHaveAnyStrides) {
  problem_.batch = 0;
  problem_.q.tokens = 0;
  out_.batch = std::numeric_limits<int64_t>::max();
  out_.row = out_.head = out_.batch / 4;
  map(0, 1);
  EXPECT_EQ(mapped(), first_and(0, 0));
}

}  // namespace
