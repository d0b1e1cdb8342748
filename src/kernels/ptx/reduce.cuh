// Additions in global memory that return nothing.
#pragma once

namespace fa::ptx {

#if __CUDA_ARCH__ >= 900
inline constexpr bool adds_vectors = true;
#else
inline constexpr bool adds_vectors = false;
#endif

__device__ inline void add_global(float* to, float x) {
  asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(to), "f"(x) : "memory");
}

/// Four next to each other, since sm_90; `to` is aligned to 16 bytes.
__device__ inline void add_global(float* to, const float (&x)[4]) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(x[0]),
               "f"(x[1]), "f"(x[2]), "f"(x[3])
               : "memory");
}

/// The maximum of numbers that are not negative, whose order is that of their bits.
__device__ inline void max_global(float* to, float x) {
  asm volatile("red.relaxed.gpu.global.max.s32 [%0], %1;" ::"l"(to), "r"(__float_as_uint(x))
               : "memory");
}

}  // namespace fa::ptx
