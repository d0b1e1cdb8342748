// Joins two attentions of the same queries over disjoint keys:
//   LSE = log(exp(LSE_a) + exp(LSE_b)),   O = exp(LSE_a - LSE) O_a + exp(LSE_b - LSE) O_b
#pragma once

#include "common/config.h"
#include "common/params.h"
#include "ptx/math.cuh"
#include "tile/number.cuh"

namespace fa::pass {

/// One row of one head, by a warp.
template <class C>
__device__ void merge_row(const kernel::MergeParams& p, long long row) {
  using Element = tile::Format<C::element>;
  const int lane = threadIdx.x % 32;
  const long long unit = row / p.seqlen, i = row - unit * p.seqlen;
  const int batch = static_cast<int>(unit / p.heads), head = static_cast<int>(unit % p.heads);
  const auto at = [&](const kernel::View& view) {
    return batch * view.batch + i * view.row + head * view.head;
  };
  // -inf for a part without keys, for which flash_attn 2 writes +inf.
  const auto statistic = [&](const kernel::View& view) {
    const float lse = static_cast<const float*>(view.data)[at(view)];
    return lse == -ptx::minus_infinity ? ptx::minus_infinity : lse;
  };
  const float lse_a = statistic(p.lse_a), lse_b = statistic(p.lse_b);
  const float top = fmaxf(lse_a, lse_b);
  const bool empty = lse_a == ptx::minus_infinity && lse_b == ptx::minus_infinity;
  const float from_a = empty ? 0 : ptx::exp2((lse_a - top) * ptx::log2_e);
  const float from_b = empty ? 0 : ptx::exp2((lse_b - top) * ptx::log2_e);
  const float total = empty ? 1 : from_a + from_b;

  // A part without keys is absent, whatever it holds.
  const auto load = [&](const kernel::View& part, float lse, int column) {
    return lse == ptx::minus_infinity ? 0 : Element::load(part.data, at(part) + column);
  };
  const long long out = at(p.out);
  for (int column = lane; column < p.head_dim; column += 32) {
    const float joined =
        (load(p.out_a, lse_a, column) * from_a + load(p.out_b, lse_b, column) * from_b) / total;
    Element::store(p.out.data, out + column, joined);
  }
  __syncwarp();  // lse may be lse_a itself, which every lane has read by now
  if (lane == 0) {
    static_cast<float*>(p.lse.data)[at(p.lse)] =
        empty ? ptx::minus_infinity : top + ptx::log2(total) * (1 / ptx::log2_e);
  }
}

template <class C>
struct Merge {
  using Params = kernel::MergeParams;

  static __device__ void run(const Params& p) {
    const long long row =
        static_cast<long long>(kernel::joined_rows) * blockIdx.x + threadIdx.x / 32;
    const long long rows = p.seqlen * p.heads * p.batch;
    if (row < rows) merge_row<C>(p, row);
  }
};

}  // namespace fa::pass
