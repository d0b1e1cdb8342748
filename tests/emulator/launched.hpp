// For tests: device code as lambdas, run by the emulator without a driver or a compiler.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "common/tensor_map.h"
#include "emulator/memory.hpp"
#include "emulator/run.hpp"
#include "emulator/tensor_map.hpp"

namespace emulator {

/// Calls body() as each thread of a launch.
template <typename F>
void run(const Launch& shape, const F& body) {
  runtime = &the_runtime;
  launch([](const void* f) { (*static_cast<const F*>(f))(); }, shape, &body);
}

/// Device memory: who reads or writes less than 256 bytes behind it, or before it, ends the
/// program.
template <typename T>
class Memory {
 public:
  explicit Memory(size_t count)
      : data_(static_cast<T*>(allocate(count * sizeof(T)))), count_(count) {}
  explicit Memory(const std::vector<T>& from) : Memory(from.size()) {
    std::memcpy(data_, from.data(), from.size() * sizeof(T));
  }
  ~Memory() { release(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  T* data() const { return data_; }
  std::vector<T> copy() const { return {data_, data_ + count_}; }
  T& operator[](size_t i) const { return data_[i]; }

 private:
  T* data_;
  size_t count_;
};

/// Makes a tensor map, as the driver would, of a tensor whose innermost dimension comes first.
/// Fails the program where it is refused. Not returned by value: g++ 12 does not align what a
/// function returns to 64 bytes.
template <typename T>
void encode(fa::kernel::TensorMap& map, T* data, const std::vector<uint64_t>& sizes,
            const std::vector<uint64_t>& strides, const std::vector<uint32_t>& box,
            fa::kernel::Swizzle swizzle) {
  constexpr int uint16 = 1, float32 = 7;
  const std::vector<uint32_t> steps(sizes.size(), 1);
  const int result = encode_tiled(
      &map, sizeof(T) == 4 ? float32 : uint16, static_cast<unsigned>(sizes.size()), data,
      sizes.data(), strides.data(), box.data(), steps.data(), 0, static_cast<int>(swizzle), 0, 0);
  if (result != 0) {
    std::fprintf(stderr, "a tensor map is refused\n");
    std::abort();
  }
}

/// Random numbers that 16 bits hold exactly, as bfloat16 and as they are.
struct Numbers {
  std::vector<unsigned short> bits;
  std::vector<float> values;

  Numbers(size_t count, std::mt19937& random) {
    for (size_t i = 0; i < count; ++i) {
      const float x = static_cast<float>(static_cast<int>(random() % 257) - 128) / 64;
      uint32_t word;
      std::memcpy(&word, &x, sizeof word);
      bits.push_back(static_cast<unsigned short>(word >> 16));
      values.push_back(x);
    }
  }
};

}  // namespace emulator
