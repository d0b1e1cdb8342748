// A warp of a block for wide heads that waits until the sums of dQ of a step are 0.
#pragma once

#include "sm90/sum_clearer.cuh"
#include "sm90/wide_backward_shapes.cuh"

namespace fa::sm90 {

/// The barrier of a step's dS^T, at which the groups wait before they begin its dQ, waits for this
/// warp, too: a group has no register for the state of the sums.
template <class C>
struct WideSumWatcher {
  using Shapes = WideBackwardShapes<C>;

  const kernel::BackwardParams& p;
  Shapes::TilePipe tiles;
  const u32 shared;
  const int rank;  ///< of the block in its cluster
  const int lane = threadIdx.x % 32;
  u32 slot = 0, parity = 0;  ///< of the step, as WideGroup has them

  __device__ void run() {
    KeysInHand tile;
    while (take_tile(tiles, lane, tile)) {
      if (tile.begin == tile.end) continue;
      for_each_step<C>(p, tile, [&](long long row) {
        if (lane == 0) {
          ptx::wait_for_turn(sum_state<C>(p, row, rank), sums_cleared);
          const u32 there = shared + Shapes::gradients_there + 8 * slot;
          ptx::mbarrier_wait(there, parity ^ 1);  // it has one arrival a phase
          ptx::mbarrier_arrive(there);
        }
        __syncwarp();
        slot ^= 1;
        parity ^= slot ^ 1;
      });
    }
  }
};

}  // namespace fa::sm90
