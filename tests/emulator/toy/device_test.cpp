// The toy kernels through the driver and NVRTC, on a device of compute capability 9.0 or the
// emulated one: compiled, loaded and launched as the library does it, with tensor maps of the
// driver's.
#include "cuda/runtime/device.hpp"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <bit>
#include <random>
#include <vector>

#include "check/cuda_accelerator.hpp"
#include "cuda/launch/launch.hpp"
#include "cuda/runtime/kernel_store.hpp"
#include "cuda/runtime/memory.hpp"
#include "emulator/tensor_map.hpp"
#include "toy/params.h"
#include "toy/source.hpp"

namespace fa::toy {
namespace {

using kernel::Swizzle;
using kernel::TensorMap;

class Device : public testing::Test {
 protected:
  void SetUp() override {
    if (!check::no_cuda_reason().empty() || cuda::device(0).major != 9) {
      GTEST_SKIP() << "needs a device of compute capability 9.0";
    }
  }

  /// A copy of the numbers on the device.
  template <typename T>
  T* upload(const std::vector<T>& numbers) {
    std::byte* there = memory_.emplace_back(0, numbers.size() * sizeof(T)).data();
    cuda::upload(0, there, numbers.data(), numbers.size() * sizeof(T), nullptr);
    cuda::synchronize(0, nullptr);
    return reinterpret_cast<T*>(there);
  }
  std::vector<float> download(const float* from, size_t count) {
    std::vector<float> numbers(count);
    cuda::download(0, numbers.data(), reinterpret_cast<const std::byte*>(from),
                   count * sizeof(float), nullptr);
    cuda::synchronize(0, nullptr);
    return numbers;
  }

  /// Contiguous, innermost dimension first.
  static void encode(TensorMap& map, int type, size_t element, void* data,
                     const std::vector<uint64_t>& sizes, const std::vector<uint32_t>& box,
                     Swizzle swizzle) {
    const cuda::CurrentContext context(0);  // the driver encodes for its device
    static const auto encoder = reinterpret_cast<emulator::EncodeTiled*>(
        dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuTensorMapEncodeTiled"));
    std::vector<uint64_t> strides;
    uint64_t stride = element;
    for (size_t i = 0; i + 1 < sizes.size(); ++i) strides.push_back(stride *= sizes[i]);
    const std::vector<uint32_t> steps(sizes.size(), 1);
    cuda::check(
        encoder(&map, type, static_cast<uint32_t>(sizes.size()), data, sizes.data(), strides.data(),
                box.data(), steps.data(), 0, static_cast<int>(swizzle), 0, 0),
        "encoding a tensor map");
  }
  static void encode_bfloat16(TensorMap& map, void* data, const std::vector<uint64_t>& sizes,
                              const std::vector<uint32_t>& box, Swizzle swizzle) {
    encode(map, 9, 2, data, sizes, box, swizzle);
  }
  static void encode_float32(TensorMap& map, void* data, const std::vector<uint64_t>& sizes,
                             const std::vector<uint32_t>& box, Swizzle swizzle) {
    encode(map, 7, 4, data, sizes, box, swizzle);
  }

  template <typename Params>
  void launch(const KernelSpec& spec, unsigned blocks, const Params& params) {
    static cuda::KernelStore store(sources(), cuda::digest("toy"), cuda::DiskCache(""), {});
    const cuda::CurrentContext context(0);
    cuda::launch(store.load(spec, 0), spec, {blocks, 1, 1}, &params, nullptr);
    cuda::synchronize(0, nullptr);
  }

 private:
  std::vector<cuda::Buffer> memory_;
};

std::vector<float> random_numbers(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> numbers(count);
  for (float& x : numbers) x = static_cast<float>(static_cast<int>(random() % 257) - 128) / 64;
  return numbers;
}
/// The bits of numbers that bfloat16 holds exactly.
std::vector<uint16_t> as_bfloat16(const std::vector<float>& numbers) {
  std::vector<uint16_t> bits;
  for (const float x : numbers) bits.push_back(std::bit_cast<uint32_t>(x) >> 16);
  return bits;
}

TEST_F(Device, Ring) {
  constexpr size_t rows = 200, columns = 104, depth = 296;
  const std::vector<float> a = random_numbers(rows * depth, 1);
  const std::vector<float> b = random_numbers(depth * columns, 2);
  float* c = upload(std::vector<float>(rows * columns));
  RingParams p{};
  encode_bfloat16(p.a, upload(as_bfloat16(a)), {depth, rows}, {slice, tile_rows},
                  Swizzle::within_128);
  encode_bfloat16(p.b, upload(as_bfloat16(b)), {columns, depth}, {panel, slice},
                  Swizzle::within_128);
  encode_float32(p.c, c, {columns, rows}, {32, group_rows}, Swizzle::within_128);
  p.slices = (depth + slice - 1) / slice;
  launch(ring_spec(), (rows + tile_rows - 1) / tile_rows, p);
  const std::vector<float> product = download(c, rows * columns);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < columns; ++j) {
      float sum = 0;
      for (size_t k = 0; k < depth; ++k) sum += a[i * depth + k] * b[k * columns + j];
      ASSERT_NEAR(product[i * columns + j], sum, 1e-3) << "row " << i << ", column " << j;
    }
  }
}

TEST_F(Device, Exchange) {
  constexpr unsigned blocks = 6;
  constexpr size_t count = blocks * exchange_numbers;
  const std::vector<float> in = random_numbers(count, 3), plain = random_numbers(count, 4),
                           before = random_numbers(count, 5);
  const std::vector<uint64_t> sizes{4, 8, 8, blocks};
  float *added = upload(before), *sums = upload(before);
  float *copied = upload(std::vector<float>(count)),
        *firsts = upload(std::vector<float>(4 * blocks));
  const std::vector<uint32_t> box{exchange_box[0], exchange_box[1], exchange_box[2], 1};
  ExchangeParams p{};
  p.plain = upload(plain);
  p.sums = sums;
  p.copied = copied;
  p.firsts = firsts;
  encode_float32(p.in, upload(in), sizes, box, Swizzle::none);
  encode_float32(p.added, added, sizes, box, Swizzle::none);
  launch(exchange_spec(), blocks, p);
  const std::vector<float> added_now = download(added, count), sums_now = download(sums, count),
                           copied_now = download(copied, count),
                           firsts_now = download(firsts, 4 * blocks);
  for (size_t i = 0; i < count; ++i) {
    const size_t other = i ^ exchange_numbers;
    EXPECT_EQ(added_now[i], before[i] + in[other]);
    EXPECT_EQ(sums_now[i], before[i] + in[other]);
    EXPECT_EQ(copied_now[i], plain[other]);
  }
  for (size_t block = 0; block < blocks; ++block) {
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(firsts_now[4 * block + i], plain[(block ^ 1) * exchange_numbers + i]);
    }
  }
}

}  // namespace
}  // namespace fa::toy
