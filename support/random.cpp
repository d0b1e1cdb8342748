#include "support/random.hpp"

#include <bit>
#include <cmath>
#include <numbers>

namespace fa::support {
namespace {

void store(DType dtype, std::byte* data, int64_t i, float value) {
  if (dtype == float32) {
    reinterpret_cast<float*>(data)[i] = value;
  } else if (dtype == float16) {
    reinterpret_cast<_Float16*>(data)[i] = static_cast<_Float16>(value);
  } else {  // bfloat16, rounded to nearest even; a random normal number is no NaN and not huge
    const auto bits = std::bit_cast<uint32_t>(value);
    reinterpret_cast<uint16_t*>(data)[i] =
        static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}

}  // namespace

void fill_normal(io::Array& array, uint64_t seed, uint64_t stream) {
  const int64_t count = array.elements();
  const uint64_t base = mixed(mixed(seed) ^ stream);
  std::byte* data = array.data();
  const DType dtype = array.dtype();
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < count; i += 2) {
    // Box and Muller: two uniform numbers give two normal ones.
    const uint64_t word = mixed(base + static_cast<uint64_t>(i));
    const float radius = std::sqrt(-2 * std::log(static_cast<float>((word >> 40) + 1) * 0x1p-24f));
    const float angle =
        2 * std::numbers::pi_v<float> * static_cast<float>(word & 0xffffff) * 0x1p-24f;
    store(dtype, data, i, radius * std::cos(angle));
    if (i + 1 < count) store(dtype, data, i + 1, radius * std::sin(angle));
  }
}

}  // namespace fa::support
