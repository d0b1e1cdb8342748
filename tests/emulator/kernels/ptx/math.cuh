#pragma once
#include "emulator.hpp"

namespace fa::ptx {

using u32 = unsigned;

inline constexpr float log2_e = 1.4426950408889634f;
inline constexpr float minus_infinity = __builtin_bit_cast(float, 0xff800000);

inline float exp2(float x) { return exp2f(x); }
inline float min_or_nan(float x, float y) { return x != x || x < y ? x : y; }
inline float log2(float x) { return log2f(x); }
inline float reciprocal(float x) { return 1 / x; }
inline float tanh_approx(float x) { return tanhf(x); }

inline u32 bf16(float x) {  // rounded to nearest even
  const u32 bits = __float_as_uint(x);
  if (x != x) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline u32 f16(float x) {
  const _Float16 half = static_cast<_Float16>(x);
  return __builtin_bit_cast(unsigned short, half);
}
inline u32 pack_f16(float low, float high) { return f16(low) | f16(high) << 16; }
inline u32 pack_bf16(float low, float high) { return bf16(low) | bf16(high) << 16; }
inline float f16_to_f32(unsigned short x) { return __builtin_bit_cast(_Float16, x); }
inline float bf16_to_f32(unsigned short x) { return __uint_as_float(static_cast<u32>(x) << 16); }

}  // namespace fa::ptx
