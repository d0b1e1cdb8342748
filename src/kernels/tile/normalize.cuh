// FlashAttention-1's way with O, which the ablation in docs/kernels/learned.md measures: divided by
// the row's sum at every step, and multiplied by it again at the next (line 12 of its Algorithm 1):
//   O = diag(l')^-1 (diag(l e^(m - m')) O + P V_j)
#pragma once

#include "tile/softmax.cuh"

namespace fa::tile {

/// O := diag(f(l)) O, where `sum` holds the lanes' parts of l.
template <int m_tiles, int o_tiles, typename F>
__device__ void scale_by_sum(float (&o)[m_tiles][o_tiles][4], const float (&sum)[m_tiles][2], F f) {
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float scale = f(quad_sum(sum[m][h]));
#pragma unroll
      for (int n = 0; n < o_tiles; ++n) {
        o[m][n][2 * h] *= scale;
        o[m][n][2 * h + 1] *= scale;
      }
    }
  }
}

template <int m_tiles, int o_tiles>
__device__ void multiply_by_sum(float (&o)[m_tiles][o_tiles][4], const float (&sum)[m_tiles][2]) {
  scale_by_sum(o, sum, [](float l) { return l; });
}

/// A row that has seen no key stays as it is: 0.
template <int m_tiles, int o_tiles>
__device__ void divide_by_sum(float (&o)[m_tiles][o_tiles][4], const float (&sum)[m_tiles][2]) {
  scale_by_sum(o, sum, [](float l) { return l > 0 ? ptx::reciprocal(l) : 1; });
}

}  // namespace fa::tile
