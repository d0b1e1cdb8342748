// float32 to and from float16 and bfloat16, on bits: rounded to nearest even on every target,
// whatever its instructions do.
#pragma once

namespace fa::narrow {

using u16 = unsigned short;
using u32 = unsigned int;

constexpr u32 bf16_to_f32_bits(u16 h) { return static_cast<u32>(h) << 16; }

constexpr u16 f32_bits_to_bf16(u32 x) {
  if ((x & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<u16>(x >> 16 | 0x40u);  // NaN stays NaN
  return static_cast<u16>((x + 0x7FFFu + (x >> 16 & 1u)) >> 16);
}

constexpr u32 f16_to_f32_bits(u16 h) {
  const u32 sign = static_cast<u32>(h & 0x8000u) << 16;
  const u32 magnitude = h & 0x7FFFu;
  if (magnitude >= 0x7C00u) return sign | 0x7F800000u | (magnitude & 0x3FFu) << 13;
  if (magnitude >= 0x0400u) return sign | ((magnitude << 13) + (112u << 23));
  if (magnitude == 0) return sign;
  u32 exponent = 113;  // subnormal: shift the leading one up to its place
  u32 mantissa = magnitude;
  while ((mantissa & 0x400u) == 0) {
    mantissa <<= 1;
    --exponent;
  }
  return sign | exponent << 23 | (mantissa & 0x3FFu) << 13;
}

constexpr u16 f32_bits_to_f16(u32 x) {
  const u32 sign = x >> 16 & 0x8000u;
  const u32 magnitude = x & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<u16>(sign | 0x7E00u);   // NaN
  if (magnitude >= 0x477FF000u) return static_cast<u16>(sign | 0x7C00u);  // rounds beyond 65504
  if (magnitude >= 0x38800000u) {                                         // normal in float16
    const u32 rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
    return static_cast<u16>(sign | (rounded - (112u << 23)) >> 13);
  }
  if (magnitude < 0x33000000u) return static_cast<u16>(sign);  // at most half the least subnormal
  const u32 shift = 126u - (magnitude >> 23);                  // 14 .. 24
  const u32 mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
  const u32 half = 1u << (shift - 1);
  const u32 down = mantissa >> shift;
  const u32 rest = mantissa & ((1u << shift) - 1);
  return static_cast<u16>(sign | (down + (rest > half || (rest == half && (down & 1u)) ? 1u : 0u)));
}

}  // namespace fa::narrow
