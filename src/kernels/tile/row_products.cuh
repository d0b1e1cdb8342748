// Inner products of rows in global memory, some lanes of a warp to a row.
#pragma once

#include "tile/copy.cuh"
#include "tile/number.cuh"

namespace fa::tile {

/// Lanes that share a row of `columns` numbers, of `rows` by a block: of 96 numbers four, each with
/// three chunks of 8, so that all have work; but not where threads would be left without a row.
constexpr int row_lanes(int columns, int threads, int rows) {
  return columns / 8 % 8 == 4 && threads <= 4 * rows ? 4 : 8;
}

/// a . b and a . a of two rows of V's columns, each shared by `lanes`.
template <class C, int lanes>
struct RowProducts {
  using Element = Format<C::element>;

  float ab = 0, aa = 0;

  /// Adds the products of a lane's share, which is one of `lanes`.
  __device__ void add(const char* a, const char* b, int lane) {
    constexpr int chunks = C::head_dim_v / 8;
#pragma unroll
    for (int first = 0; first < chunks; first += lanes) {
      uint4 x = {0, 0, 0, 0}, y = x;
      if (chunks % lanes == 0 || first + lane < chunks) {
        x = load_chunk<C::alignment>(a + 16 * (first + lane));
        y = load_chunk<C::alignment>(b + 16 * (first + lane));
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

  /// The sums of all `lanes`.
  __device__ void join() {
#pragma unroll
    for (int step = 1; step < lanes; step *= 2) {
      ab += __shfl_xor_sync(~0u, ab, step);
      if constexpr (Element::scales_gradients) aa += __shfl_xor_sync(~0u, aa, step);
    }
  }
};

}  // namespace fa::tile
