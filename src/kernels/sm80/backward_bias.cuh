// A bias's gradient before the main kernel of a backward pass, where that writes it: 0; else after
// it: the sums of sm80/bias_gradient.cuh in the tensor's format. gridDim.x: its rows; the blocks of
// a row share its keys.
#pragma once

#include "sm80/bias_gradient.cuh"

namespace fa::sm80 {

/// One number of the gradient.
__device__ inline float bias_sum(const kernel::BackwardParams& p, int batch, int head, int key) {
  const kernel::ForwardParams& f = p.forward;
  float sum = 0;
  if constexpr (bias_gradient == BiasGradient::summed) {
    sum = p.dbias_sum[static_cast<long long>(blockIdx.x) * f.keys.seqlen + key];
  } else if constexpr (bias_gradient == BiasGradient::of_columns) {
    for (int sequence = batch; sequence < f.batch; sequence += p.bias_batches) {
      for (int of = head; of < f.heads_q.value; of += p.bias_heads) {
        for (int warp = 0; warp < row_warps; ++warp) {
          sum += column_sum(p, warp, sequence, of)[key];
        }
      }
    }
  }
  return sum;
}

__device__ inline void finish_bias(const kernel::BackwardParams& p) {
  const int index = static_cast<int>(blockIdx.x);
  const int slot = index / p.bias_rows, row = index % p.bias_rows;
  const int batch = slot / p.bias_heads, head = slot % p.bias_heads;
  const long long first = batch * p.dbias.batch + head * p.dbias.head + row * p.dbias.row;
  for (long long key = blockIdx.y * threads + threadIdx.x; key < p.forward.keys.seqlen;
       key += gridDim.y * threads) {
    Format<c::dbias>::store(p.dbias.data, first + key,
                            bias_sum(p, batch, head, static_cast<int>(key)));
  }
}

}  // namespace fa::sm80

extern "C" __global__ void __launch_bounds__(fa::sm80::threads)
    fa_sm80_backward_bias(const __grid_constant__ fa::kernel::BackwardParams p) {
  fa::sm80::finish_bias(p);
}
