// Every shape of wgmma, so that NVRTC sees each one's text.
#pragma once

#include "common/descriptor.h"
#include "common/number.h"
#include "ptx/wgmma.cuh"

namespace fa::toy {

struct ShapeParams {
  float* sums;
  unsigned long long a, b;  ///< descriptors
};

template <kernel::Number number, kernel::Major a_major, kernel::Major b_major, int tiles>
__device__ void multiply_shape(const ShapeParams& p) {
  float d[tiles][4] = {};
  ptx::wgmma_fence(d);
  if constexpr (config::a_in_registers) {
    const unsigned a[4] = {threadIdx.x, 0, 0, threadIdx.x};
    ptx::wgmma<number, b_major>(d, a, p.b, true);
  } else {
    ptx::wgmma<number, a_major, b_major>(d, p.a, p.b, true);
  }
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>(d);
#pragma unroll
  for (int i = 0; i < tiles; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) p.sums[(4 * i + e) * 128 + threadIdx.x] = d[i][e];
  }
}

/// The formats and layouts take turns.
template <int tiles>
__device__ void multiply_one_of_all(const ShapeParams& p) {
  using kernel::Major;
  using kernel::Number;
  constexpr Number number = tiles % 2 == 0 ? Number::bfloat16 : Number::float16;
  constexpr Major a = tiles / 2 % 2 == 0 ? Major::k : Major::mn;
  constexpr Major b = tiles / 4 % 2 == 0 ? Major::k : Major::mn;
  multiply_shape<number, a, b, tiles>(p);
}

}  // namespace fa::toy

#define FA_TOY_SHAPE(tiles)                                                  \
  extern "C" __global__ void __launch_bounds__(128, 1)                       \
      fa_toy_shape_##tiles(const __grid_constant__ fa::toy::ShapeParams p) { \
    fa::toy::multiply_one_of_all<tiles>(p);                                  \
  }
// clang-format off
FA_TOY_SHAPE(1) FA_TOY_SHAPE(2) FA_TOY_SHAPE(3) FA_TOY_SHAPE(4)
FA_TOY_SHAPE(5) FA_TOY_SHAPE(6) FA_TOY_SHAPE(7) FA_TOY_SHAPE(8)
FA_TOY_SHAPE(9) FA_TOY_SHAPE(10) FA_TOY_SHAPE(11) FA_TOY_SHAPE(12)
FA_TOY_SHAPE(13) FA_TOY_SHAPE(14) FA_TOY_SHAPE(15) FA_TOY_SHAPE(16)
FA_TOY_SHAPE(17) FA_TOY_SHAPE(18) FA_TOY_SHAPE(19) FA_TOY_SHAPE(20)
FA_TOY_SHAPE(21) FA_TOY_SHAPE(22) FA_TOY_SHAPE(23) FA_TOY_SHAPE(24)
FA_TOY_SHAPE(25) FA_TOY_SHAPE(26) FA_TOY_SHAPE(27) FA_TOY_SHAPE(28)
FA_TOY_SHAPE(29) FA_TOY_SHAPE(30) FA_TOY_SHAPE(31) FA_TOY_SHAPE(32)
    // clang-format on
