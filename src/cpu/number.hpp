// One number of a tensor, in any of the floating dtypes.
#pragma once

#include <bit>
#include <cstdint>

#include "fa/attention.hpp"
#include "kernels/common/float16.h"

namespace fa::cpu {

inline float load_number(DType dtype, const char* source, int64_t i) {
  if (dtype == float32) return reinterpret_cast<const float*>(source)[i];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(source)[i];
  return std::bit_cast<float>(dtype == float16 ? narrow::f16_to_f32_bits(bits)
                                               : narrow::bf16_to_f32_bits(bits));
}

inline void store_number(DType dtype, float value, char* target, int64_t i) {
  if (dtype == float32) {
    reinterpret_cast<float*>(target)[i] = value;
    return;
  }
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  reinterpret_cast<uint16_t*>(target)[i] =
      dtype == float16 ? narrow::f32_bits_to_f16(bits) : narrow::f32_bits_to_bf16(bits);
}

}  // namespace fa::cpu
