// Whether two strided tensors share memory: exactly, or by a count of steps that ends undecided.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "fa/attention.hpp"

namespace fa {

/// The bytes that a tensor's elements take: `run` of them at begin + sum of i_d * step_d, with
/// 0 <= i_d <= last_d.
struct Footprint {
  struct Dim {
    int64_t step;  ///< bytes, more than 0
    int64_t last;  ///< extent - 1
  };
  uintptr_t begin = 0;
  uintptr_t end = 0;  ///< behind the last byte; at most 2^60 from `begin`
  int64_t run = 0;
  std::array<Dim, View::max_dims> dims{};
  size_t count = 0;

  void add(int64_t step, int64_t last) {
    if (last > 0) dims[count++] = {step, last};
  }
};

enum class Sharing : uint8_t {
  none,
  some,
  undecided  ///< after thousands of steps: three strides and more, unlike, of large extents
};

/// False: certainly not.
inline bool may_share(const Footprint& a, const Footprint& b) {
  return a.begin < b.end && b.begin < a.end;
}

/// Whether some byte belongs to both.
Sharing sharing(const Footprint& a, const Footprint& b);

/// Whether some byte belongs to two elements of the same tensor.
Sharing sharing_within(const Footprint& a);

}  // namespace fa
