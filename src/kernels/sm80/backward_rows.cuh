// Rows of tensors in global memory, for the kernels of a backward pass.
#pragma once

#include "sm80/backward_shapes.cuh"
#include "tile/copy.cuh"

namespace fa::sm80 {

constexpr int row_lanes = 8;  ///< that share a row

__device__ inline const char* row_at(const kernel::View& view, const Place& place, long long row) {
  return static_cast<const char*>(view.data) +
         2 * (place.sequence * view.batch + (place.rows.begin + row) * view.row +
              place.head * view.head);
}

/// a . b and a . a of two rows, by row_lanes lanes.
struct Products {
  float ab = 0, aa = 0;
};
__device__ inline Products multiply_rows(const char* a, const char* b, int lane) {
  Products sum;
  for (int chunk = lane; chunk < c::head_dim_v / 8; chunk += row_lanes) {
    const uint4 x = load_chunk<c::alignment>(a + 16 * chunk);
    const uint4 y = load_chunk<c::alignment>(b + 16 * chunk);
    const u32 left[4] = {x.x, x.y, x.z, x.w}, right[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float low = Element::low(left[i]), high = Element::high(left[i]);
      sum.ab = fmaf(low, Element::low(right[i]), sum.ab);
      sum.ab = fmaf(high, Element::high(right[i]), sum.ab);
      sum.aa = fmaf(low, low, sum.aa);
      sum.aa = fmaf(high, high, sum.aa);
    }
  }
#pragma unroll
  for (int step = 1; step < row_lanes; step *= 2) {
    sum.ab += __shfl_xor_sync(~0u, sum.ab, step);
    if constexpr (Element::scales_gradients) sum.aa += __shfl_xor_sync(~0u, sum.aa, step);
  }
  return sum;
}

}  // namespace fa::sm80
