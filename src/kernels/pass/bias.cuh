// The gradient of a bias outside of the main kernel. Where the main kernel writes it, this kernel
// comes before and sets it to 0. Else it comes after and converts the sums of tile/bias_sums.cuh to
// the tensor's format. Blocks [x] have row x of the bias, and share its keys.
#pragma once

#include "tile/bias_sums.cuh"

namespace fa::pass {

using namespace fa::tile;

/// S: the family's shapes.
template <class S>
struct FinishBias {
  using C = S::Config;
  using Params = kernel::BackwardParams;

  static __device__ void run(const Params& p) {
    const int index = static_cast<int>(blockIdx.x);
    const int slot = index / p.bias_rows, row = index % p.bias_rows;
    const int batch = slot / p.bias_heads, head = slot % p.bias_heads;
    const long long first = batch * p.dbias.batch + head * p.dbias.head + row * p.dbias.row;
    for (long long key = blockIdx.y * S::threads + threadIdx.x; key < p.keys.seqlen;
         key += gridDim.y * S::threads) {
      Format<C::dbias>::store(p.dbias.data, first + key,
                              sum_of(p, batch, head, static_cast<int>(key)));
    }
  }

 private:
  /// One number of the gradient.
  static __device__ float sum_of(const Params& p, int batch, int head, int key) {
    constexpr BiasGradient way = bias_gradient_of<C>;
    constexpr int row_warps = C::rows / S::ScoreGrid::warp_columns;
    float sum = 0;
    if constexpr (way == BiasGradient::summed) {
      sum = p.dbias_sum[static_cast<long long>(blockIdx.x) * p.keys.seqlen + key];
    } else if constexpr (way == BiasGradient::of_columns) {
      for (int sequence = batch; sequence < p.order.batch; sequence += p.bias_batches) {
        for (int of = head; of < p.heads.query; of += p.bias_heads) {
          for (int warp = 0; warp < row_warps; ++warp) {
            sum += column_sum(p, warp, sequence, of)[key];
          }
        }
      }
    }
    return sum;
  }
};

}  // namespace fa::pass
