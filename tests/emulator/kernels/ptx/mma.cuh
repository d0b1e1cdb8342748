#pragma once
#include "emulator.hpp"
#include "ptx/math.cuh"

namespace fa::ptx {

struct Mma {
  float* d;
  const u32* a;
  u32 b[2];
};

/// D[16x8] += A[16x16] B[16x8]: lane 4 g + t has A[g, g + 8][2 t, 2 t + 8 ...], B[2 t ...][g].
template <float (*number)(unsigned short)>
void mma(Mma* const* lanes) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      for (int e = 0; e < 2; ++e) {
        a[g + i % 2 * 8][2 * t + i / 2 * 8 + e] =
            number(static_cast<unsigned short>(lanes[lane]->a[i] >> (16 * e)));
      }
    }
    for (int i = 0; i < 2; ++i) {
      for (int e = 0; e < 2; ++e) {
        b[2 * t + 8 * i + e][g] =
            number(static_cast<unsigned short>(lanes[lane]->b[i] >> (16 * e)));
      }
    }
  }
  float d[16][8] = {};
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) {
      for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int e = 0; e < 4; ++e) {
      lanes[lane]->d[e] += d[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2];
    }
  }
}

inline void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  Mma mine{d, a, {b0, b1}};
  emulator::warp<Mma, mma<f16_to_f32>>(mine);
}
inline void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  Mma mine{d, a, {b0, b1}};
  emulator::warp<Mma, mma<bf16_to_f32>>(mine);
}

}  // namespace fa::ptx
