// A tensor as a caller hands it over: its memory is what its shape and strides reach, no byte more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "fa/fa.h"

namespace fa::fuzz {

struct Operand {
  fa_dtype dtype FA_FLOAT32;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  ///< empty: a null pointer
  std::vector<int32_t> numbers;  ///< contents of lengths
  fa_device device{FA_CPU, 0};
  uint64_t byte_offset = 0;
  size_t shift = 0;  ///< bytes by which its memory misses the allocator's alignment
  int32_t ndim = 0;
  bool without_shape = false;  ///< null pointers
  bool without_data = false;

  Operand(fa_dtype dtype, std::vector<int64_t> extents);

  /// Gives it its memory, filled with small numbers: call when nothing of the above changes any
  /// more. A tensor that reaches farther than any call should work on gets none.
  void allocate();
  /// Gives it the memory of another tensor, if that is large enough.
  void allocate_in(const Operand& other);

  const fa_tensor* c() const { return &tensor_; }
  std::vector<std::byte> contents() const;
  void set_contents(const std::vector<std::byte>& contents);

 private:
  void describe(std::byte* memory);
  void fill();

  std::shared_ptr<std::byte[]> memory_;
  size_t bytes_ = 0;
  int64_t before_ = 0;  ///< bytes in front of the first element, where strides are negative
  std::unique_ptr<int64_t[]> exact_shape_;
  std::unique_ptr<int64_t[]> exact_strides_;
  fa_tensor tensor_{};
};

}  // namespace fa::fuzz
