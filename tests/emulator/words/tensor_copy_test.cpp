// Boxes of random tensors, sizes, places and swizzles, beside plain loops.
#include "ptx/tensor_copy.cuh"

#include <gtest/gtest.h>

#include <numeric>

#include "emulator/launched.hpp"
#include "ptx/bulk_copy.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/proxy.cuh"
#include "ptx/shared.cuh"

namespace {

using namespace fa::ptx;
using emulator::Memory;
using emulator::run;
using emulator::shared_base;
using fa::kernel::Swizzle;
using fa::kernel::TensorMap;

constexpr u32 barrier = shared_base, data = shared_base + 1024;
constexpr size_t room = 16384;  // bytes of shared memory for a box

/// A tensor with gaps between its rows, and a box that may lie outside in part. The innermost
/// dimension comes first.
template <typename T, int rank>
struct Case {
  Swizzle swizzle;
  std::vector<uint64_t> sizes, strides;  ///< strides in bytes, of all dimensions but the first
  std::vector<uint32_t> box;
  int at[rank];
  std::vector<T> tensor;

  explicit Case(std::mt19937& random) : swizzle(static_cast<Swizzle>(random() % 4)) {
    const auto line = swizzle == Swizzle::none ? 16 * (1 + random() % 6)
                                               : static_cast<size_t>(line_bytes(swizzle));
    box.push_back(static_cast<uint32_t>(line / sizeof(T)));
    size_t bytes = line;
    for (int i = 1; i < rank; ++i) {
      box.push_back(static_cast<uint32_t>(1 + random() % std::min<size_t>(room / bytes, 20)));
      bytes *= box.back();
    }
    uint64_t stride = sizeof(T);
    for (int i = 0; i < rank; ++i) {
      sizes.push_back(1 + random() % (i == 0 ? 90 : 9));
      at[i] = static_cast<int>(random() % (sizes.back() + 2 * box[static_cast<size_t>(i)])) -
              static_cast<int>(box[static_cast<size_t>(i)]);
      stride *= sizes.back() + random() % 3;
      if (i == 0) stride = (stride + 15) / 16 * 16;
      if (i < rank - 1) strides.push_back(stride);
    }
    tensor.resize(stride / sizeof(T));
    for (T& x : tensor) x = static_cast<T>(random() % 1000);
  }

  void encode(TensorMap& map, T* there) const {
    emulator::encode(map, there, sizes, strides, box, swizzle);
  }
  u32 bytes() const {
    return std::accumulate(box.begin(), box.end(), static_cast<u32>(sizeof(T)),
                           std::multiplies<>());
  }
  /// f(address in shared memory, index in the tensor or -1) for each element.
  template <typename F>
  void each(const F& f) const {
    for (u32 n = 0; n < bytes() / sizeof(T); ++n) {
      int64_t index = 0;
      bool within = true;
      u32 rest = n;
      for (size_t i = 0; i < rank; ++i) {
        const int64_t place = at[i] + static_cast<int64_t>(rest % box[i]);
        rest /= box[i];
        within = within && place >= 0 && place < static_cast<int64_t>(sizes[i]);
        index += place * (i == 0 ? 1 : static_cast<int64_t>(strides[i - 1] / sizeof(T)));
      }
      // The 16-byte chunk's number in its line is changed by that of the line in 8.
      const u32 offset = n * static_cast<u32>(sizeof(T)), chunk = offset / 16;
      const auto chunks = static_cast<u32>(line_bytes(swizzle)) / 16;
      const u32 line_of_128 = offset / 128 % 8;
      const u32 swapped = chunk / chunks * chunks + (chunk % chunks ^ line_of_128 % chunks);
      f(data + swapped * 16 + offset % 16, within ? index : -1);
    }
  }
};

template <typename T, int rank>
void expect_loads(std::mt19937& random, unsigned seed) {
  const Case<T, rank> c(random);
  const Memory<T> from(c.tensor);
  TensorMap map;
  c.encode(map, from.data());
  std::vector<char> box(room);
  run({.threads = 32, .shared_bytes = 1024 + room, .seed = seed}, [&] {
    if (threadIdx.x == 0) {
      mbarrier_init(barrier, 1);
      fence_mbarrier_init();
      mbarrier_arrive_expect(barrier, static_cast<int>(c.bytes()));
      tensor_load(data, &map, c.at, barrier);
    }
    __syncwarp();
    mbarrier_wait(barrier, 0);
    if (threadIdx.x == 0) std::memcpy(box.data(), &at_shared<char>(data), room);
  });
  c.each([&](u32 address, int64_t index) {
    T x;
    std::memcpy(&x, &box[address - data], sizeof x);
    ASSERT_EQ(x, index < 0 ? T{0} : c.tensor[static_cast<size_t>(index)]);
  });
}

TEST(TensorCopy, LoadsBoxes) {
  std::mt19937 random(1);
  for (unsigned seed = 1; seed <= 25; ++seed) {
    expect_loads<unsigned short, 2>(random, seed);
    expect_loads<unsigned short, 3>(random, seed);
    expect_loads<unsigned short, 4>(random, seed);
    expect_loads<unsigned short, 5>(random, seed);
    expect_loads<float, 3>(random, seed);
  }
}

/// Stores or adds a box of numbers 1, 2, 3 ...
template <typename T, int rank>
void expect_written(std::mt19937& random, unsigned seed, bool adds) {
  const Case<T, rank> c(random);
  const Memory<T> to(c.tensor);
  TensorMap map;
  c.encode(map, to.data());
  std::vector<T> expected = c.tensor;
  T next = 1;
  c.each([&](u32, int64_t index) {
    if (index >= 0) {
      T& x = expected[static_cast<size_t>(index)];
      x = static_cast<T>(adds ? x + next : next);
    }
    ++next;
  });
  run({.threads = 32, .shared_bytes = 1024 + room, .seed = seed}, [&] {
    if (threadIdx.x != 0) return;
    T x = 1;
    c.each([&](u32 address, int64_t) {
      at_shared<T>(address) = x++;
      emulator::runtime->wrote(address, sizeof(T));
    });
    fence_proxy_async();
    if constexpr (sizeof(T) == 4) {
      adds ? tensor_add(&map, c.at, data) : tensor_store(&map, c.at, data);
    } else {
      tensor_store(&map, c.at, data);
    }
    bulk_commit();
    bulk_wait_read<0>();
  });
  ASSERT_EQ(to.copy(), expected);
}

TEST(TensorCopy, StoresAndAddsBoxes) {
  std::mt19937 random(2);
  for (unsigned seed = 1; seed <= 25; ++seed) {
    expect_written<unsigned short, 2>(random, seed, false);
    expect_written<unsigned short, 4>(random, seed, false);
    expect_written<float, 2>(random, seed, true);
    expect_written<float, 3>(random, seed, seed % 2 == 0);
    expect_written<float, 5>(random, seed, true);
  }
}

TEST(TensorCopy, MapsThatTheDriverRefuses) {
  const Memory<unsigned short> there(4096);
  TensorMap map;
  const auto encode = [&](const void* address, std::vector<uint64_t> strides,
                          std::vector<uint32_t> box, int swizzle) {
    const std::vector<uint64_t> sizes{64, 32};
    const std::vector<uint32_t> steps{1, 1};
    return emulator::encode_tiled(&map, 9, 2, const_cast<void*>(address), sizes.data(),
                                  strides.data(), box.data(), steps.data(), 0, swizzle, 0, 0);
  };
  EXPECT_EQ(encode(there.data(), {128}, {64, 8}, 3), 0);
  EXPECT_NE(encode(there.data() + 1, {128}, {64, 8}, 3), 0);
  EXPECT_NE(encode(there.data(), {136}, {64, 8}, 3), 0);
  EXPECT_NE(encode(there.data(), {128}, {64, 257}, 3), 0);
  EXPECT_NE(encode(there.data(), {128}, {64, 0}, 3), 0);
  EXPECT_NE(encode(there.data(), {128}, {128, 8}, 3), 0);
  EXPECT_NE(encode(there.data(), {128}, {12, 8}, 0), 0);
}

TEST(TensorCopyDeathTest, NoMapOrAnother) {
  const TensorMap nothing{};
  EXPECT_DEATH(
      run({.threads = 32, .shared_bytes = 2048}, [&] { tensor_store(&nothing, {0, 0}, data); }),
      "not encoded");
  std::mt19937 random(3);
  const Case<float, 2> c(random);
  const Memory<float> there(c.tensor);
  TensorMap map;
  c.encode(map, there.data());
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 1024 + room},
                   [&] { tensor_store(&map, {0, 0, 0}, data); }),
               "another rank");
  EXPECT_DEATH(run({.threads = 32, .shared_bytes = 1024 + room},
                   [&] { tensor_store(&map, {0, 0}, data + 16); }),
               "not aligned");
}

}  // namespace
