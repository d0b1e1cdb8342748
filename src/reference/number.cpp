#include "reference/number.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace fa::reference {
namespace {

template <typename T>
T read(const void* p) {
  T x;
  std::memcpy(&x, p, sizeof(T));
  return x;
}

template <typename T>
void write(void* p, T x) {
  std::memcpy(p, &x, sizeof(T));
}

float round_bfloat16(float x) {
  if (std::isnan(x)) return x;
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t half_or_less = 0x7fffu + ((bits >> 16) & 1u);
  return std::bit_cast<float>((bits + half_or_less) & 0xffff0000u);
}

float round_float16(float x) {
  const float size = std::fabs(x);
  if (!(size < 65520.0f)) return std::isnan(x) ? x : std::copysign(INFINITY, x);
  if (size < 0x1p-14f) {
    // Subnormal: multiples of 2^-24, which is one unit in the last place of 0.75.
    return std::copysign((size + 0.75f) - 0.75f, x);
  }
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t half_or_less = 0xfffu + ((bits >> 13) & 1u);
  return std::bit_cast<float>((bits + half_or_less) & 0xffffe000u);
}

double from_float16(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  double size = std::ldexp(1024 + fraction, exponent - 25);
  if (exponent == 0) size = std::ldexp(fraction, -24);
  if (exponent == 31) size = fraction == 0 ? INFINITY : std::numeric_limits<double>::quiet_NaN();
  return (bits >> 15) != 0 ? -size : size;
}

uint16_t to_float16(float x) {
  const auto sign = static_cast<uint16_t>(std::signbit(x) ? 0x8000 : 0);
  if (std::isnan(x)) return sign | 0x7e00;
  const float size = std::fabs(round_float16(x));
  if (std::isinf(size)) return sign | 0x7c00;
  if (size < 0x1p-14f) return sign | static_cast<uint16_t>(size * 0x1p24f);
  // The exponent's bias falls from 127 to 15; the fraction keeps its upper 10 bits.
  return sign | static_cast<uint16_t>((std::bit_cast<uint32_t>(size) >> 13) - ((127 - 15) << 10));
}

}  // namespace

float rounded(DType dtype, float x) {
  if (dtype == bfloat16) return round_bfloat16(x);
  if (dtype == float16) return round_float16(x);
  return x;
}

double load(DType dtype, const void* p) {
  if (dtype == float32) return read<float>(p);
  if (dtype == bfloat16) {
    return std::bit_cast<float>(static_cast<uint32_t>(read<uint16_t>(p)) << 16);
  }
  if (dtype == float16) return from_float16(read<uint16_t>(p));
  if (dtype == int32) return read<int32_t>(p);
  throw std::invalid_argument("reference: a dtype that is not known");
}

void store(DType dtype, void* p, double value) {
  const auto x = static_cast<float>(value);
  if (dtype == float32) {
    write(p, x);
  } else if (dtype == bfloat16) {
    // A NaN whose upper half has no fraction bit would become an infinity.
    const float near = std::isnan(x) ? std::numeric_limits<float>::quiet_NaN() : round_bfloat16(x);
    write(p, static_cast<uint16_t>(std::bit_cast<uint32_t>(near) >> 16));
  } else if (dtype == float16) {
    write(p, to_float16(x));
  } else {
    throw std::invalid_argument("reference: a dtype that is not known");
  }
}

double epsilon(DType dtype) {
  if (dtype == bfloat16) return 0x1p-7;
  if (dtype == float16) return 0x1p-10;
  return 0x1p-23;
}

double smallest_normal(DType dtype) { return dtype == float16 ? 0x1p-14 : 0x1p-126; }

}  // namespace fa::reference
