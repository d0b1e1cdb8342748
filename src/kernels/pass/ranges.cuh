// For float16, before the main kernel of a backward pass and for each tile of keys: how long the
// rows of V are, which bounds dP.
#pragma once

#include "tile/padded.cuh"
#include "tile/row_products.cuh"
#include "tile/rows.cuh"

namespace fa::pass {

using namespace fa::tile;

/// S: the family's shapes.
template <class S>
struct MeasureValues {
  using C = S::Config;
  using Params = kernel::BackwardParams;

  static __device__ void run(const Params& p) {
    constexpr int lanes = row_lanes(C::head_dim_v, S::threads, C::keys);
    const Place place = find_place<C::keys, C::packed_k, C::used_k, Longest::first>(
        p.order, p.keys, static_cast<int>(blockIdx.x));
    if (place.sequence < 0 || place.sequence == p.order.batch || place.row >= place.rows.extent)
      return;
    float largest = 0;
    for (int i = threadIdx.x / lanes; i < C::keys; i += S::threads / lanes) {
      const int key = place.row + i;
      RowProducts<C, lanes> products;
      if (key < place.rows.length) {
        const char* v = row_at(p.operands.v, place, key);
        products.add(v, v, threadIdx.x % lanes);
      }
      products.join();
      largest = fmaxf(largest, products.aa);
    }
    raise_range(range_of(p, Range::values, place.sequence, place.head), largest);
  }
};

}  // namespace fa::pass
