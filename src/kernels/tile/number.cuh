// Number formats: those of the tensor cores with their products, and float32.
#pragma once

#include "common/number.h"
#include "ptx/math.cuh"
#include "ptx/mma.cuh"

namespace fa::tile {

using kernel::Number;
using u16 = unsigned short;
using u32 = unsigned;

template <Number>
struct Format;

template <>
struct Format<Number::float16> {
  static constexpr float largest_p = 32768;  ///< no P, nor a sum of a few, may pass 65504
  /// P begins as at most 2^6, which keeps small ones out of the subnormal numbers below 2^-14: with
  /// dropout of 0.9 these would be all that is left of a row.
  static constexpr float headroom = 6;
  static constexpr bool tanh_by_instruction = false;
  /// In the backward pass, where P is at most 1, it is multiplied by 2^15 for the same reason, and
  /// dS by a power of 2 that its bound leaves room for.
  static constexpr float gradient_headroom = 15;
  static constexpr bool scales_gradients = true;
  static __device__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    ptx::mma_f16(d, a, b0, b1);
  }
  static __device__ u32 pack(float low, float high) { return ptx::pack_f16(low, high); }
  static __device__ float low(u32 pair) { return ptx::f16_to_f32(static_cast<u16>(pair)); }
  static __device__ float high(u32 pair) { return ptx::f16_to_f32(static_cast<u16>(pair >> 16)); }
  static __device__ float load(const void* data, long long index) {
    return ptx::f16_to_f32(static_cast<const u16*>(data)[index]);
  }
  static __device__ void store(void* data, long long index, float x) {
    static_cast<u16*>(data)[index] = static_cast<u16>(pack(x, 0));
  }
};

template <>
struct Format<Number::bfloat16> {
  /// 2^60: with values under 1e15 and sums over any sequence, O stays in float32.
  static constexpr float largest_p = 1152921504606846976.0f;
  static constexpr float headroom = 0;
  /// A score is then off by cap * 2^-11 at most, where q and k, rounded to 2^-9, make it worse.
  static constexpr bool tanh_by_instruction = true;
  static constexpr float gradient_headroom = 0;
  static constexpr bool scales_gradients = false;
  static __device__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    ptx::mma_bf16(d, a, b0, b1);
  }
  static __device__ u32 pack(float low, float high) { return ptx::pack_bf16(low, high); }
  static __device__ float low(u32 pair) { return __uint_as_float(pair << 16); }
  static __device__ float high(u32 pair) { return __uint_as_float(pair & 0xffff0000); }
  static __device__ float load(const void* data, long long index) {
    return ptx::bf16_to_f32(static_cast<const u16*>(data)[index]);
  }
  static __device__ void store(void* data, long long index, float x) {
    static_cast<u16*>(data)[index] = static_cast<u16>(pack(x, 0));
  }
};

/// A tensor that is not given.
template <>
struct Format<Number::none> {
  static __device__ float load(const void*, long long) { return 0; }
  static __device__ void store(void*, long long, float) {}
};

template <>
struct Format<Number::float32> {
  static __device__ float load(const void* data, long long index) {
    return static_cast<const float*>(data)[index];
  }
  static __device__ void store(void* data, long long index, float x) {
    static_cast<float*>(data)[index] = x;
  }
};

/// Gradients of formats that need it are multiplied by powers of 2; others by 1.
template <typename Element>
__device__ float power_of_2(float bits) {
  return Element::scales_gradients ? ptx::exp2(bits) : 1;
}

}  // namespace fa::tile
