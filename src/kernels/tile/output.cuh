// The end of a forward pass: O := O / l, LSE = m + log l (lines 12 to 15 of Algorithm 1), and the
// way of both to global memory.
#pragma once

#include "common/params.h"
#include "tile/fragment.cuh"
#include "tile/number.cuh"
#include "tile/rows.cuh"
#include "tile/softmax.cuh"

namespace fa::tile {

/// First of V's columns that this block works on. The last slice ends where V does: both it and the
/// slice before form the columns that they share, to the same bits.
template <class C>
__device__ int first_value_column() {
  const int first = C::value_columns * blockIdx.z;
  if constexpr (C::head_dim_v % C::value_columns == 0) return first;
  constexpr int last = C::head_dim_v - C::value_columns;
  return first < last ? first : last;
}

struct RowEnd {
  float scale;  ///< of O: 0 where the row saw no key, or does not count
  float lse;
};

/// Ends a row by its maximum and its sum of P. A sink is one more key without a value, which
/// whoever joins `partial` results adds.
template <class C>
__device__ RowEnd end_row(const kernel::ForwardParams& p, const Place& place, HeadRow at,
                          float maximum, float sum, bool partial) {
  using Element = Format<C::element>;
  float scale = sum > 0 ? 1 : 0;
  if (C::sinks != Number::none && !partial) {
    const float sink =
        log2_e * Format<C::sinks>::load(p.score.sinks.data, at.head * p.score.sinks.head);
    // mutant "CUDA: sinks: maximum" of emulated: fmaxf(maximum, sink) => maximum
    const float larger = fmaxf(maximum, sink);
    const float used = finite_maximum(larger);
    scale *= ptx::exp2(maximum - used);
    sum = sum * ptx::exp2(maximum - used) + ptx::exp2(sink - used + Element::headroom);
    maximum = larger;
  }
  const bool none = sum == 0;  // not so where a score is NaN, which the maximum passes over
  const float log2_sum = ptx::log2(sum), inverse = ptx::reciprocal(sum);
  float lse = none ? minus_infinity : (maximum - Element::headroom + log2_sum) * (1 / log2_e);
  scale = none ? 0 : scale * (C::dropout ? p.dropout.keep_scale : 1) * inverse;
  // mutant "CUDA: rows beyond seqused" of emulated: at.row >= place.rows.length => false
  if (at.row >= place.rows.length) {
    scale = 0;
    lse = partial ? kernel::unused_row : minus_infinity;
  }
  return {scale, lse};
}

/// Sets O of a row without keys to 0: it may be NaN, since 0 times a NaN of V is one.
template <int m_tiles, int n_tiles>
__device__ void clear_row(float (&o)[m_tiles][n_tiles][4], int m, int h, bool empty) {
  asm volatile("");  // keeps this a branch: selecting costs each row an instruction a number
#pragma unroll
  for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
    for (int e = 2 * h; e < 2 * h + 2; ++e) o[m][n][e] = empty ? 0 : o[m][n][e];
  }
}

/// O := O / l of a warp's `rows` (TileRows). `partial`: of some of the keys. Calls
/// store_lse(HeadRow, lse), once for each row that exists.
template <class C, typename Rows, typename Softmax, int m_tiles, int n_tiles, typename StoreLse>
__device__ void end_rows(const kernel::ForwardParams& p, const Place& place, const Rows& rows,
                         int lane, const Softmax& softmax, float (&o)[m_tiles][n_tiles][4],
                         bool partial, const StoreLse& store_lse) {
  RowEnd ends[m_tiles][2];
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      ends[m][h] = end_row<C>(p, place, rows(fragment_row(m, h, lane)), softmax.maximum[m][h],
                              quad_sum(softmax.sum[m][h]), partial);
    }
  }
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
    for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) o[m][n][e] *= ends[m][e / 2].scale;
    }
    if (__any_sync(~0u, ends[m][0].scale == 0 || ends[m][1].scale == 0)) {
#pragma unroll
      for (int h = 0; h < 2; ++h) clear_row(o, m, h, ends[m][h].scale == 0);
    }
    const int h = lane % 4;  // two lanes of a quad store a row's LSE each
    const HeadRow at = rows(fragment_row(m, h, lane));
    if (h < 2 && at.row < place.rows.extent) {
      store_lse(at, h == 0 ? ends[m][0].lse : ends[m][1].lse);
    }
  }
}

/// A row among those of all heads and splits, whose O and LSE pass/combine.cuh joins.
template <class C>
__device__ long long split_row(const kernel::ForwardParams& p, const Place& place, int split,
                               HeadRow at) {
  const long long in_split =
      C::packed_q
          ? at.head * p.rows.tokens + place.rows.begin + at.row
          : (static_cast<long long>(place.sequence) * p.heads.query + at.head) * p.rows.seqlen +
                at.row;
  return split * p.partial.rows + in_split;
}

/// LSE of a row of the sequence.
__device__ inline void store_lse(const kernel::ForwardParams& p, const Place& place, HeadRow at,
                                 float lse) {
  if (p.operands.lse.data != nullptr) statistic_of(p.operands.lse, place, at.head, at.row) = lse;
}

/// O of a part of the keys in float32, of a warp's `rows`: the columns of V from `first_column` on.
/// row_at(HeadRow): the row's number among all partial ones.
template <class C, int columns, typename Rows, int m_tiles, int n_tiles, typename RowAt>
__device__ void store_partial(const kernel::Partial& partial, const Place& place, const Rows& rows,
                              int first_column, int lane, const float (&o)[m_tiles][n_tiles][4],
                              const RowAt& row_at) {
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const HeadRow at = rows(fragment_row(m, h, lane));
      if (at.row >= place.rows.extent) continue;
      float* to =
          partial.out + row_at(at) * C::head_dim_v + first_column + fragment_column(0, 0, lane);
#pragma unroll
      for (int n = 0; n < columns / 8; ++n) {
        *reinterpret_cast<float2*>(to + 8 * n) = {o[m][n][2 * h], o[m][n][2 * h + 1]};
      }
    }
  }
}

}  // namespace fa::tile
