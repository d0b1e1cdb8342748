// Joins the splits of a forward pass: each has attended to its own keys.
//   LSE = log(sum_s exp(LSE_s) + exp(sink)),   O = sum_s exp(LSE_s - LSE) O_s
#pragma once

#include "common/config.h"
#include "common/params.h"
#include "ptx/math.cuh"
#include "tile/copy.cuh"
#include "tile/number.cuh"

namespace fa::pass {

/// One row of all heads, by a warp: its lanes share the columns, four at a time.
template <class C>
__device__ void combine_row(const kernel::CombineParams& p, long long row) {
  using Element = tile::Format<C::element>;
  using ptx::minus_infinity;
  const int lane = threadIdx.x % 32;
  const long long unit = row / p.seqlen, i = row - unit * p.seqlen;
  const int batch = static_cast<int>(unit / p.heads), head = static_cast<int>(unit % p.heads);

  float top = minus_infinity;
  for (int s = 0; s < p.splits; ++s) {
    const float lse = p.partial.lse[s * p.partial.rows + row];
    top = top >= lse || top != top ? top : lse;  // a NaN stays, which fmaxf would pass over
  }
  const bool unused = top == kernel::unused_row;
  float sink = minus_infinity;
  if constexpr (C::sinks != kernel::Number::none) {
    if (!unused) {
      sink = tile::Format<C::sinks>::load(p.sinks.data, head * p.sinks.head);
      top = fmaxf(top, sink);
    }
  }
  const bool empty = unused || top == minus_infinity;
  // mutant "CUDA: join of splits" of emulated: ptx::exp2((lse - top) * ptx::log2_e) => 1.0f
  const auto weight = [&](float lse) { return empty ? 0 : ptx::exp2((lse - top) * ptx::log2_e); };
  float total = weight(sink);
  for (int s = 0; s < p.splits; ++s) total += weight(p.partial.lse[s * p.partial.rows + row]);
  const float inverse = empty ? 0 : ptx::reciprocal(total);

  char* out = static_cast<char*>(p.out.data) +
              2 * (batch * p.out.batch + i * p.out.row + head * p.out.head);
  for (int column = 4 * lane; column < C::head_dim_v; column += 128) {
    float sum[4] = {};
    for (int s = 0; s < p.splits; ++s) {
      const float w = weight(p.partial.lse[s * p.partial.rows + row]) * inverse;
      const float4 part = *reinterpret_cast<const float4*>(
          p.partial.out + (s * p.partial.rows + row) * C::head_dim_v + column);
      const float o[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[e] = w == 0 ? sum[e] : fmaf(w, o[e], sum[e]);
    }
    tile::store_half_chunk<C::alignment>(
        out + 2 * column, {Element::pack(sum[0], sum[1]), Element::pack(sum[2], sum[3])});
  }
  if (p.lse.data != nullptr && lane == 0) {
    static_cast<float*>(p.lse.data)[batch * p.lse.batch + head * p.lse.head + i * p.lse.row] =
        empty ? minus_infinity : top + ptx::log2(total) * (1 / ptx::log2_e);
  }
}

template <class C>
struct Combine {
  using Params = kernel::CombineParams;

  static __device__ void run(const Params& p) {
    const long long row =
        static_cast<long long>(kernel::joined_rows) * blockIdx.x + threadIdx.x / 32;
    if (row < p.partial.rows) combine_row<C>(p, row);
  }
};

}  // namespace fa::pass
