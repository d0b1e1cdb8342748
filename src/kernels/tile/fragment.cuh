// The places of a lane's numbers in a fragment x[m][n][4], as mma.sync leaves it: m tiles of 16
// rows, n tiles of 8 columns. A lane has rows g and g + 8 of each m tile (g = lane / 4; h = 0, 1)
// and two neighbouring columns of each n tile (e = 0, 1), as x[m][n][2 * h + e].
#pragma once

namespace fa::tile {

__device__ inline int fragment_row(int m, int h, int lane) { return 16 * m + 8 * h + lane / 4; }
__device__ inline int fragment_column(int n, int e, int lane) { return 8 * n + lane % 4 * 2 + e; }

template <int m_tiles, int n_tiles>
__device__ void clear(float (&x)[m_tiles][n_tiles][4]) {
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
    for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) x[m][n][e] = 0;
    }
  }
}

template <int m_tiles, int n_tiles>
__device__ void scale_by(float (&x)[m_tiles][n_tiles][4], float factor) {
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
    for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) x[m][n][e] *= factor;
    }
  }
}

template <int m_tiles, int n_tiles>
__device__ void multiply_by(float (&x)[m_tiles][n_tiles][4],
                            const float (&y)[m_tiles][n_tiles][4]) {
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
    for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) x[m][n][e] *= y[m][n][e];
    }
  }
}

}  // namespace fa::tile
