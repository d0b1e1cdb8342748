// Rows of tensors in global memory, for the kernels of a backward pass.
#pragma once

#include "sm80/backward_shapes.cuh"
#include "tile/copy.cuh"

namespace fa::sm80 {

/// Lanes that share a row: of 96 numbers four, each with three chunks of 8, so that all have work.
constexpr int row_lanes = c::head_dim_v / 8 % 8 == 4 ? 4 : 8;

__device__ inline const char* row_at(const kernel::View& view, const Place& place, long long row) {
  return static_cast<const char*>(view.data) +
         2 * (place.sequence * view.batch + (place.rows.begin + row) * view.row +
              place.head * view.head);
}

/// a . b and a . a of two rows.
struct Products {
  float ab = 0, aa = 0;

  /// Of a lane's share, which is one of row_lanes.
  __device__ void add(const char* a, const char* b, int lane) {
    constexpr int chunks = c::head_dim_v / 8;
#pragma unroll
    for (int first = 0; first < chunks; first += row_lanes) {
      uint4 x = {0, 0, 0, 0}, y = x;
      if (chunks % row_lanes == 0 || first + lane < chunks) {
        x = load_chunk<c::alignment>(a + 16 * (first + lane));
        y = load_chunk<c::alignment>(b + 16 * (first + lane));
      }
      const u32 left[4] = {x.x, x.y, x.z, x.w}, right[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float low = Element::low(left[i]), high = Element::high(left[i]);
        ab = fmaf(low, Element::low(right[i]), ab);
        ab = fmaf(high, Element::high(right[i]), ab);
        aa = fmaf(low, low, aa);
        aa = fmaf(high, high, aa);
      }
    }
  }

  /// The sums of all row_lanes lanes.
  __device__ void join() {
#pragma unroll
    for (int step = 1; step < row_lanes; step *= 2) {
      ab += __shfl_xor_sync(~0u, ab, step);
      if constexpr (Element::scales_gradients) aa += __shfl_xor_sync(~0u, aa, step);
    }
  }
};

}  // namespace fa::sm80
