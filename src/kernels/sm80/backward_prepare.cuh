// Before the main kernel of a backward pass, for each tile of query rows: delta = dO . O - dLSE
// (line 4 of Algorithm 2), LSE in powers of 2 with +inf where a row sees no key, so that its P is
// 0, and dQ's sum set to 0. For float16 also how large dS may become. Such a row's dO counts for
// nothing, whatever it holds; with a finite sink its dLSE does.
#pragma once

#include "sm80/backward_rows.cuh"
#include "tile/score.cuh"

namespace fa::sm80 {

__device__ inline float statistic(const kernel::View& view, const Place& place, long long row) {
  return static_cast<const float*>(view.data)[place.sequence * view.batch + place.head * view.head +
                                              (place.rows.begin + row) * view.row];
}

__device__ inline void prepare_tile(const kernel::BackwardParams& p) {
  const kernel::ForwardParams& f = p.forward;
  const Place place = find_place<c::rows, c::packed_q, c::used_q>(f, f.rows, p.order_heads,
                                                                  static_cast<int>(blockIdx.x));
  if (place.sequence < 0 || place.sequence == f.batch || place.row >= place.rows.extent) return;
  const long long padded = padded_row_begin(f, place.sequence, place.rows) + place.row;
  const long long statistics = place.head * p.padded_rows + padded;

  const Side keys = side_of<c::packed_k, c::used_k>(f.keys, place.sequence, f.batch);
  float largest = 0, largest_dlse = 0;
  const int lane = threadIdx.x % row_lanes;
  for (int i = threadIdx.x / row_lanes; i < c::rows; i += threads / row_lanes) {
    const int row = place.row + i;
    const bool counts = row < place.rows.length;
    const long long at = counts ? row : 0;  // all lanes of a warp take part in the sum
    const float lse = counts ? statistic(f.lse, place, at) : ptx::minus_infinity;
    const auto seen =
        visible_keys<c::window_left, c::window_right>(f, row, place.rows.length, keys.length);
    const bool empty = lse == ptx::minus_infinity || seen.begin >= seen.end;
    float delta = 0;
    if (place.rows.length > 0) {
      const Products dout =
          multiply_rows(row_at(p.dout, place, at), row_at(f.out, place, at), lane);
      if (!empty) {
        delta = dout.ab;
        largest = fmaxf(largest, dout.aa);
      }
    }
    if (lane == 0) {
      if (p.dlse.data != nullptr && lse != ptx::minus_infinity) {
        const float dlse = statistic(p.dlse, place, at);
        delta -= dlse;
        if (!empty) largest_dlse = fmaxf(largest_dlse, fabsf(dlse));
      }
      p.lse_2[statistics + i] = empty ? -ptx::minus_infinity : lse * ptx::log2_e;
      p.delta[statistics + i] = delta;
    }
  }
  if constexpr (Element::scales_gradients) {
    raise_range(range_of(p, Range::dout, place.sequence, place.head), largest);
    raise_range(range_of(p, Range::dlse, place.sequence, place.head), largest_dlse);
  }
  float4* sum = reinterpret_cast<float4*>(p.dq_sum + statistics * depth);
  for (int i = threadIdx.x; i < c::rows * depth / 4; i += threads) sum[i] = {0, 0, 0, 0};
}

}  // namespace fa::sm80

extern "C" __global__ void __launch_bounds__(fa::sm80::threads)
    fa_sm80_backward_prepare(const __grid_constant__ fa::kernel::BackwardParams p) {
  fa::sm80::prepare_tile(p);
}
