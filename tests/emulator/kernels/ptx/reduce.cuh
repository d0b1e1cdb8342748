#pragma once
#include "emulator.hpp"

namespace fa::ptx {

inline constexpr bool adds_vectors = __CUDA_ARCH__ >= 900;
inline void add_global(float* to, float x) { *to += x; }
inline void add_global(float* to, const float (&x)[4]) {
  for (int e = 0; e < 4; ++e) to[e] += x[e];
}

inline void max_global(float* to, float x) { *to = *to < x ? x : *to; }

}  // namespace fa::ptx
