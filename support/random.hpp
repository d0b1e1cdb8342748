// Standard-normal tensors from a seed, the same for any number of threads.
#pragma once

#include <cstdint>

#include "support/io/array.hpp"

namespace fa::support {

/// A number in [0, 2^64) that looks random, from a counter (the finalizer of splitmix64).
constexpr uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Fills a float tensor; `stream` tells tensors of the same seed apart.
void fill_normal(io::Array& array, uint64_t seed, uint64_t stream);

}  // namespace fa::support
