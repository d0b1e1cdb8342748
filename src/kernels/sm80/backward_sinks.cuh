// The sinks' gradient: dsink = -sum over a head's rows of exp(sink - LSE) delta, a block for each
// head, always in the same order.
#pragma once

#include "sm80/backward_shapes.cuh"

namespace fa::sm80 {

__device__ inline void sum_sink(const kernel::BackwardParams& p) {
  extern __shared__ __align__(128) char shared[];
  float* sums = reinterpret_cast<float*>(shared);
  const kernel::ForwardParams& f = p.forward;
  const int head = static_cast<int>(blockIdx.x);
  const float sink = ptx::log2_e * Format<c::sinks>::load(f.sinks.data, head * f.sinks.head);
  float sum = 0;
  for (int sequence = 0; sequence < f.batch; ++sequence) {
    const Side rows = side_of<c::packed_q, c::used_q>(f.rows, sequence, f.batch);
    const long long first = head * p.padded_rows + padded_row_begin(f, sequence, rows);
    for (int row = threadIdx.x; row < rows.length; row += threads) {
      // +inf where a row sees no key: all of its probability is the sink's.
      const float lse = p.lse_2[first + row];
      if (sink != ptx::minus_infinity) {
        sum -= (lse == -ptx::minus_infinity ? 1 : ptx::exp2(ptx::min_or_nan(sink - lse, 0))) *
               p.delta[first + row];
      }
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < threads; ++i) sum += sums[i];
  Format<c::dsinks>::store(p.dsinks.data, head * p.dsinks.head, sum);
}

}  // namespace fa::sm80

extern "C" __global__ void __launch_bounds__(fa::sm80::threads)
    fa_sm80_backward_sinks(const __grid_constant__ fa::kernel::BackwardParams p) {
  fa::sm80::sum_sink(p);
}
