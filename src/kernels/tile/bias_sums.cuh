// The ways to sum the gradient of a bias, and the place of its sums in global memory. The main
// kernel adds to them, pass/bias.cuh reads them.
#pragma once

#include "common/params.h"
#include "tile/number.cuh"

namespace fa::tile {

/// written: each number belongs to one row, head and sequence. summed: heads or sequences share
/// rows, of which the sums have the bias's own size. of_columns: all rows share keys.
enum class BiasGradient { none, written, summed, of_columns };
template <class C>
constexpr BiasGradient bias_gradient_of = C::dbias == Number::none ? BiasGradient::none
                                          : !C::bias_per_row       ? BiasGradient::of_columns
                                          : C::bias_shared         ? BiasGradient::summed
                                                                   : BiasGradient::written;

/// Sums over the rows of a head of a sequence, of those of one warp of a block: [keys].
__device__ inline float* column_sum(const kernel::BackwardParams& p, int row_warp, int sequence,
                                    int head) {
  const long long slot =
      (static_cast<long long>(row_warp) * p.order.batch + sequence) * p.heads.query + head;
  return p.dbias_sum + slot * p.keys.seqlen;
}

}  // namespace fa::tile
