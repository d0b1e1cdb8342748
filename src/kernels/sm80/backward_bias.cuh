// A bias's gradient before the main kernel of a backward pass, where that writes it: 0; else after
// it: the sums of sm80/bias_gradient.cuh in the tensor's format. A block for each of its rows and
// as many keys as it has threads.
#pragma once

#include "sm80/bias_gradient.cuh"

namespace fa::sm80 {

__device__ inline void finish_bias(const kernel::BackwardParams& p) {
  const kernel::ForwardParams& f = p.forward;
  const int key = static_cast<int>(blockIdx.y * threads + threadIdx.x);
  if (key >= f.keys.seqlen) return;
  const int index = static_cast<int>(blockIdx.x);
  const int slot = index / p.bias_rows, row = index % p.bias_rows;
  const int batch = slot / p.bias_heads, head = slot % p.bias_heads;
  float sum = 0;
  if constexpr (bias_gradient == BiasGradient::summed) {
    sum = p.dbias_sum[static_cast<long long>(index) * f.keys.seqlen + key];
  } else if constexpr (bias_gradient == BiasGradient::of_columns) {
    for (int sequence = batch; sequence < f.batch; sequence += p.bias_batches) {
      for (int of = head; of < f.heads_q.value; of += p.bias_heads) {
        for (int warp = 0; warp < row_warps; ++warp) {
          sum += column_sum(p, warp, sequence, of)[key];
        }
      }
    }
  }
  Format<c::dbias>::store(
      p.dbias.data, batch * p.dbias.batch + head * p.dbias.head + row * p.dbias.row + key, sum);
}

}  // namespace fa::sm80

extern "C" __global__ void __launch_bounds__(fa::sm80::threads)
    fa_sm80_backward_bias(const __grid_constant__ fa::kernel::BackwardParams p) {
  fa::sm80::finish_bias(p);
}
