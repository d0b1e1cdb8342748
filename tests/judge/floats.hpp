// The element types, written from their definitions: 1 sign bit, an exponent, a fraction.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "fa/fa.h"

namespace judge {

inline int exponent_of(double x) {
  return static_cast<int>(std::bit_cast<uint64_t>(x) >> 52 & 2047) - 1023;
}

inline double power_of_two(int exponent) {  // of a normal number
  return std::bit_cast<double>(static_cast<uint64_t>(exponent + 1023) << 52);
}

struct Format {
  const char* name;
  fa_dtype code;
  int bytes;
  int digits;         // of the significand, the hidden one included
  int exponent_bits;  // of a floating point number; 0 for integers

  [[nodiscard]] int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  [[nodiscard]] int lowest_exponent() const { return 1 - bias(); }
  [[nodiscard]] double eps() const { return power_of_two(1 - digits); }
  [[nodiscard]] double smallest_normal() const { return power_of_two(lowest_exponent()); }
  [[nodiscard]] double step_of_subnormals() const { return eps() * smallest_normal(); }
  [[nodiscard]] double largest() const { return (2 - eps()) * power_of_two(bias()); }
};

inline constexpr Format float32{"float32", FA_FLOAT32, 4, 24, 8};
inline constexpr Format float16{"float16", FA_FLOAT16, 2, 11, 5};
inline constexpr Format bfloat16{"bfloat16", FA_BFLOAT16, 2, 8, 8};
inline constexpr Format int32{"int32", FA_INT32, 4, 0, 0};
inline constexpr Format int64{"int64", FA_INT64, 8, 0, 0};

// To the nearest number of the format, ties to even, as if exponents had no upper end.
inline double round_fraction(const Format& format, double x) {
  if (x == 0 || !std::isfinite(x)) return x;
  const int exponent = std::max(exponent_of(x), format.lowest_exponent()) - format.digits + 1;
  const double scaled = x * power_of_two(-exponent);  // exact; below 2^24
  constexpr double snap = 0x1.8p52;                   // where numbers are 1 apart
  return (scaled + snap - snap) * power_of_two(exponent);
}

inline double rounded(const Format& format, double x) {
  const double y = round_fraction(format, x);
  return std::abs(y) > format.largest() ? std::copysign(HUGE_VAL, x) : y;
}

inline double load(const Format& format, const std::byte* from) {
  if (format.exponent_bits == 0) {
    int64_t value = 0;
    int32_t narrow = 0;
    if (format.bytes == 8) std::memcpy(&value, from, 8);
    if (format.bytes == 4) std::memcpy(&narrow, from, 4);
    return static_cast<double>(format.bytes == 8 ? value : narrow);
  }
  if (format.bytes == 4) {
    float value = 0;
    std::memcpy(&value, from, 4);
    return value;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, from, 2);
  const int fraction_bits = format.digits - 1;
  const int field = bits >> fraction_bits & ((1 << format.exponent_bits) - 1);
  const int fraction = bits & ((1 << fraction_bits) - 1);
  double value = 0;
  if (field == (1 << format.exponent_bits) - 1) {
    value = fraction == 0 ? HUGE_VAL : std::numeric_limits<double>::quiet_NaN();
  } else {
    const int significand = field == 0 ? fraction : fraction + (1 << fraction_bits);
    value = significand * power_of_two(std::max(field, 1) - format.bias() - fraction_bits);
  }
  return bits >> 15 != 0 ? -value : value;
}

inline void store(const Format& format, std::byte* to, double x) {
  if (format.exponent_bits == 0) {
    const auto value = static_cast<int64_t>(x);
    const auto narrow = static_cast<int32_t>(x);
    if (format.bytes == 8) std::memcpy(to, &value, 8);
    if (format.bytes == 4) std::memcpy(to, &narrow, 4);
    return;
  }
  const double y = rounded(format, x);
  if (format.bytes == 4) {
    const auto value = static_cast<float>(y);
    std::memcpy(to, &value, 4);
    return;
  }
  const int fraction_bits = format.digits - 1;
  const int top = (1 << format.exponent_bits) - 1;
  int bits = 0;
  if (std::isnan(y)) {
    bits = top << fraction_bits | 1 << (fraction_bits - 1);
  } else if (std::isinf(y)) {
    bits = top << fraction_bits;
  } else if (y != 0) {
    const int exponent = std::max(exponent_of(y), format.lowest_exponent());
    const auto significand =
        static_cast<int>(std::abs(y) * power_of_two(fraction_bits - exponent));  // exact
    bits = ((exponent + format.bias() - 1) << fraction_bits) + significand;
    if (significand < 1 << fraction_bits) bits = significand;
  }
  const auto pattern = static_cast<uint16_t>(bits | (std::signbit(y) ? 0x8000 : 0));
  std::memcpy(to, &pattern, 2);
}

}  // namespace judge
