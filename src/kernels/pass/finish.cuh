// After the main kernel of a backward pass, for each tile of query rows: dQ = scale * its sum, in
// the tensors' format. For each tile of keys that several blocks shared, dK and dV come in the same
// way. Rows and keys that do not count become 0.
#pragma once

#include "tile/accumulate.cuh"
#include "tile/padded.cuh"
#include "tile/rows.cuh"
#include "tile/store.cuh"

namespace fa::pass {

using namespace fa::tile;

/// The sum of a tile, which lies in Order, times `scale`. `sum`: null where it is 0, as for rows of
/// no sequence. `shared`: as large as Tile. S: the family's shapes.
template <class S, typename Tile, typename Order, int rows, int columns>
__device__ void write_sum(const Place& place, float* sum, float scale, const kernel::View& view,
                          u32 shared) {
  using Grid = Order::Grid;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int part = 0; part < Order::parts; ++part) {
    typename Order::Part sums = {};
    if (sum != nullptr) load_fragment(sums.x, Order::part_of(sum, warp, part), lane);
    const int column = Grid::column(warp) + part * 8 * Order::n_tiles;
    put_left(Part<Tile>(shared, Grid::row(warp), column),
             as_left<typename S::Element>(sums.x, scale), lane);
  }
  __syncthreads();
  char* to = const_cast<char*>(row_at(view, place, place.row));
  write_rows<Tile, rows, columns, S::threads, S::Config::alignment>(shared, to, 2 * view.row,
                                                                    place.rows.extent - place.row);
}

template <class S>
struct FinishRows {
  using C = S::Config;
  using Params = kernel::BackwardParams;

  static __device__ void run(const Params& p) {
    const Place place =
        find_place<C::rows, C::packed_q, C::used_q>(p.order, p.rows, static_cast<int>(blockIdx.x));
    if (place.sequence < 0 || place.row >= place.rows.extent) return;
    float* sum = nullptr;
    if (place.sequence < p.order.batch) {
      const long long padded = padded_row_begin<C>(p.rows, place.sequence, place.rows) + place.row;
      const long long first = place.head * p.padded_rows + padded;
      sum = p.dq_sum + first * S::depth;
      if constexpr (C::first_stores || C::clears_sums) {
        const int added = p.dq_turns[first / C::rows * C::dq_parts];
        if (added == 0) sum = nullptr;
      }
    }
    // mutant "CUDA: dq" of emulated: p.gradient_scale => 1.0f
    write_sum<S, typename S::QueryTile, typename S::QuerySum, C::rows, C::head_dim>(
        place, sum, p.gradient_scale, p.dq, ptx::shared_address(ptx::shared_memory()));
  }
};

template <class S>
struct FinishKeys {
  using C = S::Config;
  using Params = kernel::BackwardParams;

  static __device__ void run(const Params& p) {
    const u32 tiles = ptx::shared_address(ptx::shared_memory());
    const Place place = find_place<C::keys, C::packed_k, C::used_k, Longest::first>(
        p.order, p.keys, static_cast<int>(blockIdx.x));
    if (place.sequence < 0 || place.row >= place.rows.extent) return;
    float *dk = nullptr, *dv = nullptr;
    if (place.sequence < p.order.batch) {
      const long long padded = padded_key_begin<C>(p.keys, place.sequence, place.rows) + place.row;
      dk = p.dk_sum + (place.head * p.padded_keys + padded) * S::depth;
      dv = p.dv_sum + (place.head * p.padded_keys + padded) * S::width;
    }
    write_sum<S, typename S::KeyTile, typename S::KeySum, C::keys, C::head_dim>(place, dk, 1, p.dk,
                                                                                tiles);
    write_sum<S, typename S::ValueTile, typename S::ValueSum, C::keys, C::head_dim_v>(
        place, dv, 1, p.dv, tiles + S::KeyTile::bytes);
  }
};

}  // namespace fa::pass
