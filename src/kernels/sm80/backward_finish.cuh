// After the main kernel of a backward pass, for each tile of query rows: dQ = scale * its sum, in
// the tensors' format; likewise, for each tile of keys, dK and dV where several blocks shared it.
// Rows and keys that do not count become 0.
#pragma once

#include "sm80/backward_rows.cuh"
#include "tile/accumulate.cuh"
#include "tile/store.cuh"

namespace fa::sm80 {

/// `sum`: of the tile; null where the tensors hold rows of no sequence. `shared`: as large as Tile.
template <typename Tile, typename Grid, int parts, int rows, int columns>
__device__ void write_sum(const Place& place, float* sum, float scale, const kernel::View& view,
                          u32 shared) {
  constexpr int n_tiles = Grid::n_tiles / parts;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int part = 0; part < parts; ++part) {
    float x[Grid::m_tiles][n_tiles][4] = {};
    if (sum != nullptr) load_fragment(x, sum_of_warp<Grid, parts>(sum, warp, part), lane);
    const int column = Grid::column(warp) + part * 8 * n_tiles;
    put_left(Part<Tile>(shared, Grid::row(warp), column), as_left<Element>(x, scale), lane);
  }
  __syncthreads();
  char* to = const_cast<char*>(row_at(view, place, place.row));
  write_rows<Tile, rows, columns, threads, c::alignment>(shared, to, 2 * view.row,
                                                         place.rows.extent - place.row);
}

__device__ inline void finish_rows(const kernel::BackwardParams& p, u32 shared) {
  const kernel::ForwardParams& f = p.forward;
  const Place place = find_place<c::rows, c::packed_q, c::used_q>(f, f.rows, p.order_heads,
                                                                  static_cast<int>(blockIdx.x));
  if (place.sequence < 0 || place.row >= place.rows.extent) return;
  float* sum = nullptr;
  if (place.sequence < f.batch) {
    const long long padded = padded_row_begin(f, place.sequence, place.rows) + place.row;
    sum = p.dq_sum + (place.head * p.padded_rows + padded) * depth;
  }
  write_sum<QueryTile, QueryGrid, query_parts, c::rows, c::head_dim>(place, sum, p.gradient_scale,
                                                                     p.dq, shared);
}

__device__ inline void finish_keys(const kernel::BackwardParams& p, u32 shared) {
  const kernel::ForwardParams& f = p.forward;
  const Place place = find_place<c::keys, c::packed_k, c::used_k, Longest::first>(
      f, f.keys, p.order_heads, static_cast<int>(blockIdx.x));
  if (place.sequence < 0 || place.row >= place.rows.extent) return;
  float *dk = nullptr, *dv = nullptr;
  if (place.sequence < f.batch) {
    const long long padded = padded_key_begin(f, place.sequence, place.rows) + place.row;
    dk = p.dk_sum + (place.head * p.padded_keys + padded) * depth;
    dv = p.dv_sum + (place.head * p.padded_keys + padded) * width;
  }
  write_sum<KeyTile, KeyGrid, 1, c::keys, c::head_dim>(place, dk, 1, p.dk, shared);
  write_sum<ValueTile, ValueGrid, 1, c::keys, c::head_dim_v>(place, dv, 1, p.dv,
                                                             shared + KeyTile::bytes);
}

}  // namespace fa::sm80

extern "C" __global__ void __launch_bounds__(fa::sm80::threads)
    fa_sm80_backward_finish(const __grid_constant__ fa::kernel::BackwardParams p) {
  extern __shared__ __align__(128) char shared[];
  fa::sm80::finish_rows(p, fa::ptx::shared_address(shared));
}

extern "C" __global__ void __launch_bounds__(fa::sm80::threads)
    fa_sm80_backward_finish_keys(const __grid_constant__ fa::kernel::BackwardParams p) {
  extern __shared__ __align__(128) char shared[];
  fa::sm80::finish_keys(p, fa::ptx::shared_address(shared));
}
