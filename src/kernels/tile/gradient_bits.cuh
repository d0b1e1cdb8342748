// dS of float16 is multiplied by a power of 2 that its bound leaves room for, so that small numbers
// are not rounded to 0.
#pragma once

#include "common/params.h"
#include "ptx/math.cuh"
#include "tile/padded.cuh"

namespace fa::tile {

/// The exponent for a block: of the query heads from `first_head` on that share a key head's keys.
/// |dP - delta| is at most twice |dO| |V| / (1 - p), and |dLSE|.
__device__ inline float gradient_bits(const kernel::BackwardParams& p, int sequence, int key_head,
                                      int first_head) {
  float dout_square = 0, dlse = 0;
  for (int head = first_head; head < first_head + p.part_heads; ++head) {
    dout_square = fmaxf(dout_square, *range_of(p, Range::dout, sequence, head));
    dlse = fmaxf(dlse, *range_of(p, Range::dlse, sequence, head));
  }
  const float values = *range_of(p, Range::values, sequence, key_head);
  // Not their product, which may be beyond float32.
  const float product = 0.5f * (ptx::log2(dout_square) + ptx::log2(values));
  const float bound = fmaxf(product + ptx::log2(p.dropout.keep_scale) + 1, ptx::log2(dlse)) + 1;
  return fminf(fmaxf(14 - ceilf(bound), -110), 110);
}

/// 1 in formats that need no such factor.
template <typename Element>
__device__ float power_of_2(float bits) {
  return Element::scales_gradients ? ptx::exp2(bits) : 1;
}

}  // namespace fa::tile
