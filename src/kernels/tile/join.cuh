// Where a block's warps have the same rows and each its own keys: their O, maxima and sums, joined
// in the first warp by way of shared memory.
#pragma once

#include "ptx/shared.cuh"
#include "tile/softmax.cuh"

namespace fa::tile {

/// What is 0 of a part stays 0, whatever it holds: a row without keys may hold NaN.
__device__ inline float weighted(float weight, float x) { return weight == 0 ? 0 : weight * x; }

/// By all threads, which no longer need what lies in shared memory. plan/sm80_tiles.cpp knows how
/// much is taken: for each warp but the first four bytes for each number of O and eight more a row.
template <int warps, typename Softmax, int m_tiles, int o_tiles>
__device__ void join_warps(u32 shared, int warp, int lane, Softmax& softmax,
                           float (&o)[m_tiles][o_tiles][4]) {
  constexpr int chunks = m_tiles * (o_tiles + 1);  // of 16 bytes a lane
  const auto at = [&](int of_warp, int m, int n) {
    return shared + (((of_warp - 1) * chunks + m * (o_tiles + 1) + n) * 32 + lane) * 16;
  };
  const auto put = [](u32 address, float a, float b, float c, float d) {
    ptx::store_shared(
        address, {__float_as_uint(a), __float_as_uint(b), __float_as_uint(c), __float_as_uint(d)});
  };
  __syncthreads();
  if (warp > 0) {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int n = 0; n < o_tiles; ++n) {
        put(at(warp, m, n), o[m][n][0], o[m][n][1], o[m][n][2], o[m][n][3]);
      }
      put(at(warp, m, o_tiles), softmax.maximum[m][0], softmax.maximum[m][1], softmax.sum[m][0],
          softmax.sum[m][1]);
    }
  }
  __syncthreads();
  if (warp > 0) return;
  for (int other = 1; other < warps; ++other) {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
      const uint4 statistics = ptx::load_shared(at(other, m, o_tiles));
      const float maximum[2] = {__uint_as_float(statistics.x), __uint_as_float(statistics.y)};
      const float sum[2] = {__uint_as_float(statistics.z), __uint_as_float(statistics.w)};
      float ours[2], theirs[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float top = fmaxf(softmax.maximum[m][h], maximum[h]);
        ours[h] = ptx::exp2(softmax.maximum[m][h] - Softmax::finite(top));
        theirs[h] = ptx::exp2(maximum[h] - Softmax::finite(top));
        softmax.maximum[m][h] = top;
        softmax.sum[m][h] = softmax.sum[m][h] * ours[h] + sum[h] * theirs[h];
      }
#pragma unroll
      for (int n = 0; n < o_tiles; ++n) {
        const uint4 part = ptx::load_shared(at(other, m, n));
        const float x[4] = {__uint_as_float(part.x), __uint_as_float(part.y),
                            __uint_as_float(part.z), __uint_as_float(part.w)};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          o[m][n][e] = weighted(ours[e / 2], o[m][n][e]) + weighted(theirs[e / 2], x[e]);
        }
      }
    }
  }
  __syncwarp();  // O's rows take the place of what other lanes have read
}

}  // namespace fa::tile
