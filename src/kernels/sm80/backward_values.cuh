// For float16, before the main kernel of a backward pass and for each tile of keys: how long the
// rows of V are, which bounds dP.
#pragma once

#include "sm80/backward_rows.cuh"

namespace fa::sm80 {

__device__ inline void measure_values(const kernel::BackwardParams& p) {
  const kernel::ForwardParams& f = p.forward;
  const Place place = find_place<c::keys, c::packed_k, c::used_k, Longest::first>(
      f, f.keys, p.order_heads, static_cast<int>(blockIdx.x));
  if (place.sequence < 0 || place.sequence == f.batch || place.row >= place.rows.extent) return;
  float largest = 0;
  for (int i = threadIdx.x / row_lanes; i < c::keys; i += threads / row_lanes) {
    const int key = place.row + i;
    Products products;
    if (key < place.rows.length) {
      const char* v = row_at(f.v, place, key);
      products.add(v, v, threadIdx.x % row_lanes);
    }
    products.join();
    largest = fmaxf(largest, products.aa);
  }
  raise_range(range_of(p, Range::values, place.sequence, place.head), largest);
}

}  // namespace fa::sm80

extern "C" __global__ void __launch_bounds__(fa::sm80::threads)
    fa_sm80_backward_values(const __grid_constant__ fa::kernel::BackwardParams p) {
  fa::sm80::measure_values(p);
}
