// Sums of fragments in global memory, in float32 and in the order of the fragments, so that a
// warp's instruction writes whole lines.
#pragma once

#include "ptx/reduce.cuh"
#include "ptx/shared.cuh"

namespace fa::tile {

/// A lane's number e of a fragment's 128.
__device__ inline int sum_index(int lane, int e) {
  return ptx::adds_vectors ? 4 * lane + e : 32 * e + lane;
}

/// sum += x, by a warp; other warps may add to the same sum at the same time. A part of it: of
/// `parts`.
template <int m_tiles, int n_tiles>
__device__ void add_fragment(float* sum, const float (&x)[m_tiles][n_tiles][4], int lane,
                             int part = 0, int parts = 1) {
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
    for (int n = 0; n < n_tiles; ++n) {
      if ((m * n_tiles + n) * parts / (m_tiles * n_tiles) != part) continue;
      float* to = sum + (m * n_tiles + n) * 128 + sum_index(lane, 0);
      const float (&a)[4] = x[m][n];
      if constexpr (ptx::adds_vectors) {
        ptx::add_global(to, a);
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) ptx::add_global(to + 32 * e, a[e]);
      }
    }
  }
}

/// x into a place of shared memory from which the copy engine adds it to such a sum, since sm_90.
template <int m_tiles, int n_tiles>
__device__ void put_fragment(unsigned shared, const float (&x)[m_tiles][n_tiles][4], int lane) {
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
    for (int n = 0; n < n_tiles; ++n) {
      const float (&a)[4] = x[m][n];
      ptx::store_shared(shared + 4 * ((m * n_tiles + n) * 128 + sum_index(lane, 0)),
                        uint4{__float_as_uint(a[0]), __float_as_uint(a[1]), __float_as_uint(a[2]),
                              __float_as_uint(a[3])});
    }
  }
}

/// How the sum of a tile lies in memory: as many numbers as the tile has, warp by warp of the Grid,
/// and of a warp part by part of its columns.
template <typename Grid_, int parts_>
struct FragmentOrder {
  using Grid = Grid_;
  static constexpr int parts = parts_;
  static constexpr int n_tiles = Grid::n_tiles / parts;  ///< of a part
  struct Part {
    float x[Grid::m_tiles][n_tiles][4];
  };

  static __device__ float* part_of(float* tile, int warp, int part) {
    return tile + (warp * parts + part) * (Grid::m_tiles * n_tiles * 128);
  }
};

template <int m_tiles, int n_tiles>
__device__ void load_fragment(float (&x)[m_tiles][n_tiles][4], const float* sum, int lane) {
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
    for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        x[m][n][e] = sum[(m * n_tiles + n) * 128 + sum_index(lane, e)];
      }
    }
  }
}

}  // namespace fa::tile
