// The two 16-bit number formats of the tensor cores.
#pragma once

#include "ptx/math.cuh"
#include "ptx/mma.cuh"

namespace fa::tile {

using u16 = unsigned short;
using u32 = unsigned;

struct Float16 {
  static constexpr float largest_p = 32768;  ///< no P or sum of a few may pass 65504
  static constexpr bool tanh_by_instruction = false;
  static __device__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    ptx::mma_f16(d, a, b0, b1);
  }
  static __device__ u32 pack(float low, float high) { return ptx::pack_f16(low, high); }
  static __device__ float widen(u16 x) { return ptx::f16_to_f32(x); }
};

struct BFloat16 {
  /// 2^60: with values under 1e15 and sums over any sequence, O stays in float32.
  static constexpr float largest_p = 1152921504606846976.0f;
  /// Its relative error of 2^-11 is far under the format's own 2^-9.
  static constexpr bool tanh_by_instruction = true;
  static __device__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    ptx::mma_bf16(d, a, b0, b1);
  }
  static __device__ u32 pack(float low, float high) { return ptx::pack_bf16(low, high); }
  static __device__ float widen(u16 x) { return ptx::bf16_to_f32(x); }
};

/// A number of q's format or float32, as bias, sinks and merged outputs may be.
template <typename Element, bool is_float32>
__device__ float load_number(const void* data, long long index) {
  if constexpr (is_float32) {
    return static_cast<const float*>(data)[index];
  } else {
    return Element::widen(static_cast<const u16*>(data)[index]);
  }
}

}  // namespace fa::tile
