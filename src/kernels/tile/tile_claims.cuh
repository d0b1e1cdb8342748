// Which tiles a block takes that stays on its multiprocessor, one after the other, as its warp that
// loads finds them.
#pragma once

#include "common/params.h"
#include "ptx/turn.cuh"
#include "tile/uniform.cuh"

namespace fa::tile {

/// none: a block takes each gridDim.x-th tile. after_first: its first tile has its own number, and
/// a counter hands out the others. all: the counter hands out all, so that every tile before one
/// that a block has claimed is in a running block's hands: a block may wait for those. Block 0
/// opens the counter: with its cluster it is the first that a GPU starts.
enum class Claims { none, after_first, all };

/// One warp's, which calls all of it together. kernel::TileCounter says what the counter holds.
template <Claims claims>
struct TileClaims {
  kernel::TileCounter* counter;
  unsigned long long launch;
  int tiles;
  int lane;
  int blocks;       ///< that claim
  int index = -1;   ///< of the tile among all; `tiles` or more: there is none
  int claimed = 0;  ///< by the first lane

  __device__ TileClaims(kernel::TileCounter* shared_out, unsigned long long number, int count,
                        int of_warp, int claiming_blocks = static_cast<int>(gridDim.x))
      : counter(shared_out), launch(number), tiles(count), lane(of_warp), blocks(claiming_blocks) {}

  /// Goes to the first tile.
  __device__ void begin() {
    if (claims != Claims::none && blockIdx.x == 0 && lane == 0) {
      counter->next = 0;
      ptx::publish(&counter->launch, launch, true);
    }
    __syncwarp();
    if constexpr (claims == Claims::all) {
      ask();
      next();
    } else {
      index = static_cast<int>(blockIdx.x);
    }
  }

  /// Asks the counter for the block's tile after this one. The answer takes a microsecond. But a
  /// block that asks long ahead claims a long tile that another one, idle, could have.
  __device__ void ask() {
    if constexpr (claims != Claims::none) {
      if (index == (claims == Claims::all ? -1 : static_cast<int>(blockIdx.x))) {
        ptx::wait_until_published(&counter->launch, launch);
        __syncwarp();  // the number is taken away once all blocks have claimed
      }
      claimed = ptx::take_number(&counter->next, lane == 0);
    }
  }

  /// Goes on to what ask() asked for.
  __device__ void next() {
    if constexpr (claims == Claims::none) {
      index += blocks;
    } else {
      constexpr bool all = claims == Claims::all;
      index = (all ? 0 : blocks) + uniform(claimed);
      // Each block's last claim finds no tile left.
      const int last = tiles - 1 + (all ? blocks : 0);
      ptx::publish(&counter->launch, 0, lane == 0 && claimed == last);
    }
  }
};

}  // namespace fa::tile
