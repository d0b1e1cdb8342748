// The sinks' gradient: dsink = -sum over a head's rows of exp(sink - LSE) delta, a block for each
// head, always in the same order.
#pragma once

#include "ptx/math.cuh"
#include "ptx/shared.cuh"
#include "tile/number.cuh"
#include "tile/padded.cuh"
#include "tile/place.cuh"

namespace fa::pass {

using namespace fa::tile;

/// S: the family's shapes.
template <class S>
struct SinkGradients {
  using C = S::Config;
  using Params = kernel::BackwardParams;

  static __device__ void run(const Params& p) {
    float* sums = reinterpret_cast<float*>(ptx::shared_memory());
    const int head = static_cast<int>(blockIdx.x);
    const float sink =
        ptx::log2_e * Format<C::sinks>::load(p.score.sinks.data, head * p.score.sinks.head);
    float sum = 0;
    for (int sequence = 0; sequence < p.order.batch; ++sequence) {
      const Side rows = side_of<C::packed_q, C::used_q>(p.rows, sequence, p.order.batch);
      const long long first = head * p.padded_rows + padded_row_begin<C>(p.rows, sequence, rows);
      for (int row = threadIdx.x; row < rows.length; row += S::threads) {
        // +inf where a row sees no key: all of its probability is the sink's.
        const float lse = p.lse_2[first + row];
        // mutant "CUDA: dsinks" of emulated: sink != ptx::minus_infinity => false
        if (sink != ptx::minus_infinity) {
          sum -= (lse == -ptx::minus_infinity ? 1 : ptx::exp2(ptx::min_or_nan(sink - lse, 0))) *
                 p.delta[first + row];
        }
      }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int i = 1; i < S::threads; ++i) sum += sums[i];
    Format<C::dsinks>::store(p.dsinks.data, head * p.dsinks.head, sum);
  }
};

}  // namespace fa::pass
