// The online softmax of the paper's Algorithm 1 on a warp's score fragment s[m][n][4]: m tiles of
// 16 rows, n tiles of 8 keys. A lane owns rows g and g + 8 of each m (g = lane / 4); the four lanes
// of a quad share a row. Everything is in powers of 2.
#pragma once

#include "ptx/math.cuh"
#include "tile/product.cuh"

namespace fa::tile {

using ptx::log2_e;
using ptx::minus_infinity;

__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

/// A row that has seen no key has -inf, from which nothing may be subtracted.
__device__ inline float finite_maximum(float maximum) {
  return maximum == minus_infinity ? 0 : maximum;
}

template <typename Element, int m_tiles>
struct OnlineSoftmax {
  float maximum[m_tiles][2];  ///< of scores times `factor`, so far; -inf before the first key
  float sum[m_tiles][2];      ///< this lane's part of the row's sum of P

  __device__ OnlineSoftmax() {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        maximum[m][h] = minus_infinity;
        sum[m][h] = 0;
      }
    }
  }

  /// Of rows that have seen no key: m := rowmax(S), S := P, and this lane's sums.
  template <int n_tiles>
  __device__ void begin(float (&s)[m_tiles][n_tiles][4], float factor) {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) maximum[m][h] = quad_max(largest(s, m, h)) * factor;
    }
    exponentiate<n_tiles>(s, sum, factor);
  }

  /// m := max(m, rowmax(S)), and O and l rescaled to it.
  template <int n_tiles, int o_tiles>
  __device__ void update_maximum(const float (&s)[m_tiles][n_tiles][4],
                                 float (&o)[m_tiles][o_tiles][4], float factor) {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float next = fmaxf(maximum[m][h], quad_max(largest(s, m, h)) * factor);
        const float rescale = ptx::exp2(maximum[m][h] - finite_maximum(next));
        maximum[m][h] = next;
        // mutant "CUDA: online softmax: rescale of the sum" of emulated: rescale => 1.0f
        sum[m][h] *= rescale;
#pragma unroll
        for (int n = 0; n < o_tiles; ++n) {
          o[m][n][2 * h] *= rescale;
          o[m][n][2 * h + 1] *= rescale;
        }
      }
    }
  }

  /// Of this lane's part of a row.
  template <int n_tiles>
  static __device__ float largest(const float (&s)[m_tiles][n_tiles][4], int m, int h) {
    float x = fmaxf(s[m][0][2 * h], s[m][0][2 * h + 1]);
#pragma unroll
    for (int n = 1; n < n_tiles; ++n) x = fmaxf(x, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
    return x;
  }

  /// S := P = exp2(factor * S - m + headroom), and this lane's sums of it.
  template <int n_tiles>
  __device__ void exponentiate(float (&s)[m_tiles][n_tiles][4], float (&added)[m_tiles][2],
                               float factor) const {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) added[m][0] = added[m][1] = 0;
#pragma unroll
    for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
      for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          s[m][n][e] = ptx::exp2(fmaf(s[m][n][e], factor, shift(m, e / 2)));
          added[m][e / 2] += s[m][n][e];
        }
      }
    }
  }

  /// What the exponent of a row's P adds.
  __device__ float shift(int m, int h) const {
    return Element::headroom - finite_maximum(maximum[m][h]);
  }

  /// The same, rounded, as operand A of the product with V; S stays.
  template <int n_tiles>
  __device__ KeptSlices<n_tiles / 2, m_tiles> probabilities(const float (&s)[m_tiles][n_tiles][4],
                                                            float (&added)[m_tiles][2],
                                                            float factor) const {
    return probabilities_of(s, added, [&](float x, int m, int h, int /*n*/, int /*e*/) {
      return fmaf(x, factor, shift(m, h));
    });
  }
  /// The same of exponents exponent(x, m, h, n, e), by the numbers of S.
  template <int n_tiles, typename Exponent>
  __device__ KeptSlices<n_tiles / 2, m_tiles> probabilities_of(
      const float (&s)[m_tiles][n_tiles][4], float (&added)[m_tiles][2],
      const Exponent& exponent) const {
    KeptSlices<n_tiles / 2, m_tiles> p;
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) added[m][h] = 0;
#pragma unroll
      for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float x = ptx::exp2(exponent(s[m][n][2 * h], m, h, n, 0));
          const float y = ptx::exp2(exponent(s[m][n][2 * h + 1], m, h, n, 1));
          added[m][h] += x + y;
          p.slice[n / 2][m][n % 2 * 2 + h] = Element::pack(x, y);
        }
      }
    }
    return p;
  }

  __device__ void add(const float (&added)[m_tiles][2]) {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) sum[m][h] += added[m][h];
    }
  }

  /// Whether P has grown beyond what its format, or the sum of O, can take.
  static __device__ bool beyond(const float (&added)[m_tiles][2], float limit) {
    bool any = false;
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) any = any || added[m][0] > limit || added[m][1] > limit;
    return any;
  }

  /// Whether this lane has a row that has seen no key.
  __device__ bool has_unseen() const {
    bool unseen = false;
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
      unseen = unseen || maximum[m][0] == minus_infinity || maximum[m][1] == minus_infinity;
    }
    return unseen;
  }
};

}  // namespace fa::tile
