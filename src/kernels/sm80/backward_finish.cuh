// After the main kernel of a backward pass, for each tile of query rows: dQ = scale * its sum, in
// the tensors' format. Rows that do not count become 0.
#pragma once

#include "sm80/backward_rows.cuh"
#include "tile/accumulate.cuh"
#include "tile/store.cuh"

namespace fa::sm80 {

__device__ inline void finish_tile(const kernel::BackwardParams& p) {
  const kernel::ForwardParams& f = p.forward;
  const Place place = find_place<c::rows, c::packed_q, c::used_q>(f, f.rows, p.order_heads,
                                                                  static_cast<int>(blockIdx.x));
  if (place.sequence < 0 || place.row >= place.rows.extent) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  extern __shared__ __align__(128) char shared[];
  const u32 base = ptx::shared_address(shared);
#pragma unroll
  for (int part = 0; part < query_parts; ++part) {
    QueryPart dq = {};
    if (place.sequence < f.batch) {
      const long long padded = padded_begin(f, place.sequence, place.rows) + place.row;
      load_fragment(dq, dq_sum_of(p, place.head, padded, warp, part), lane);
    }
    const int column = QueryGrid::column(warp) + part * 8 * part_tiles;
    put_fragment<Element>(Part<QueryTile>(base, QueryGrid::row(warp), column), dq, lane,
                          p.gradient_scale);
  }
  __syncthreads();
  char* to = const_cast<char*>(row_at(p.dq, place, place.row));
  write_rows<QueryTile, c::rows, c::head_dim, threads, c::alignment>(base, to, 2 * p.dq.row,
                                                                     place.rows.extent - place.row);
}

}  // namespace fa::sm80

extern "C" __global__ void __launch_bounds__(fa::sm80::threads)
    fa_sm80_backward_finish(const __grid_constant__ fa::kernel::BackwardParams p) {
  fa::sm80::finish_tile(p);
}
