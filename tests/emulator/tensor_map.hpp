// Tensor maps: what the emulator's cuTensorMapEncodeTiled writes, and the boxes that copies take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "kernels/common/tensor_map.h"

namespace emulator {

/// What cuTensorMapEncodeTiled is: tests/unit/cuda_headers.cpp compares it with the real one.
using EncodeTiled = int(void* map, int type, unsigned rank, void* address, const uint64_t* sizes,
                        const uint64_t* strides, const uint32_t* box, const uint32_t* steps,
                        int interleave, int swizzle, int promotion, int fill);

/// cuTensorMapEncodeTiled, with its parameters in their order: 0, or 1 (CUDA_ERROR_INVALID_VALUE)
/// for what the driver refuses and for what the emulator has not: elements other than 16 bits and
/// float32, interleaving, steps other than 1, NaN outside of the tensor, a swizzle of other lines
/// than its own.
EncodeTiled encode_tiled;

/// A box of a tensor.
class Box {
 public:
  /// Stops where `map` was not encoded, or has another rank.
  Box(const void* map, const int* at, int rank);

  int bytes() const;
  int element_bytes() const;
  fa::kernel::Swizzle swizzle() const;
  /// For each element of the box: its offset in bytes in the box as it lies in shared memory before
  /// the swizzle, and its address in global memory, null where it is outside of the tensor.
  void each(const std::function<void(int offset, char* global)>& f) const;

 private:
  struct Form {
    uint32_t magic;
    uint8_t type, rank, swizzle;
    uint16_t box[5];
    uint32_t last[5];     ///< size - 1
    uint64_t strides[5];  ///< in bytes; the first is an element
    char* address;
  };
  static_assert(sizeof(Form) <= sizeof(fa::kernel::TensorMap));
  friend EncodeTiled encode_tiled;
  Form form_;
  int at_[5] = {};
};

}  // namespace emulator
