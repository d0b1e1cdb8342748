// S and dP of warps that share the columns over which these are sums: each warp multiplies its part
// of the columns, and all of them add the parts up.
#pragma once

#include "ptx/barrier.cuh"
#include "ptx/shared.cuh"
#include "sm80/backward_shapes.cuh"

namespace fa::sm80 {

/// Where a lane keeps fragment [m][n] of a product of a warp, of the products S and dP.
template <class S>
__device__ u32 sum_address(u32 sums, int warp, int product, int m, int n, int lane) {
  using Grid = S::ScoreGrid;
  const int fragment = ((warp * 2 + product) * Grid::m_tiles + m) * Grid::n_tiles + n;
  return sums + (fragment * 32 + lane) * 16;
}

__device__ inline void add_sum(float (&x)[4], u32 at) {
  const uint4 other = ptx::load_shared(at);
  x[0] += __uint_as_float(other.x);
  x[1] += __uint_as_float(other.y);
  x[2] += __uint_as_float(other.z);
  x[3] += __uint_as_float(other.w);
}

/// Adds what the warps with the same keys and rows have of S and dP, through their places in shared
/// memory, `sums`, to the same bits in all of them. A barrier of the block must come before the
/// next call.
template <class S>
__device__ void share_sums(typename S::Scores& s, typename S::Scores& dp, u32 sums, int warp,
                           int lane) {
  constexpr int warps = S::Config::sum_warps;
  static_assert(warps == 2 || warps == 4);
  using Grid = S::ScoreGrid;
  // function(x, at): x is a fragment, at(other) its place of the warp whose number is XOR other.
  const auto for_each = [&](const auto& function) {
#pragma unroll
    for (int product = 0; product < 2; ++product) {
#pragma unroll
      for (int m = 0; m < Grid::m_tiles; ++m) {
#pragma unroll
        for (int n = 0; n < Grid::n_tiles; ++n) {
          function((product == 0 ? s : dp)[m][n], [&](int other) {
            return sum_address<S>(sums, warp ^ other, product, m, n, lane);
          });
        }
      }
    }
  };
  for_each([](const float (&x)[4], const auto& at) {
    ptx::store_shared(at(0), uint4{__float_as_uint(x[0]), __float_as_uint(x[1]),
                                   __float_as_uint(x[2]), __float_as_uint(x[3])});
  });
  ptx::barrier_sync<32 * warps>(1 + warp / warps);
  for_each([](float (&x)[4], const auto& at) {
    add_sum(x, at(1));
    if constexpr (warps == 4) {  // pairs first, whose order does not matter
      float pair[4] = {};
      add_sum(pair, at(2));
      add_sum(pair, at(3));
#pragma unroll
      for (int e = 0; e < 4; ++e) x[e] += pair[e];
    }
  });
}

}  // namespace fa::sm80
