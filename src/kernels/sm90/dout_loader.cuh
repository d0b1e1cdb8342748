// A second warp that loads: V of each tile, then dO and delta of each step. One warp for all would
// go through Q and dO in the order of steps, and leave a free place of dO empty while it waits for
// one of Q. That cost 1 to 4% of the time at head_dim 64 and, under a mask, at 128.
#pragma once

#include "sm90/backward_copies.cuh"

namespace fa::sm90 {

template <class C, typename Shapes, typename Pipes>
struct DoutLoader : BackwardCopies<C, Shapes, Pipes> {
  using Base = BackwardCopies<C, Shapes, Pipes>;
  using Base::lane, Base::pipes, Base::tile;

  const int rank;  ///< of the block in its cluster

  __device__ DoutLoader(const kernel::TiledBackwardParams& params, u32 base, int block_rank = 0)
      : Base(params, base, Shapes::dout_landed), rank(block_rank) {}

  __device__ void run() {
    while (take_tile(pipes.tiles, lane, tile)) {
      if (tile.begin == tile.end) continue;
      Base::find_rows();
      Base::load_values(rank);
      RowStep step = Base::first_step();
#pragma unroll 1
      for (int more = Base::steps(); more > 0; --more) {
        Base::load_dout(step);
        step = Base::after(step);
      }
    }
  }
};

}  // namespace fa::sm90
