// A warp that sets the sums of dQ in global memory to 0 while the groups of the main kernel
// compute. A kernel before it would send all of them to memory and back: 128 MB of 16k tokens with
// 2048 columns.
#pragma once

#include "ptx/turn.cuh"
#include "sm90/backward_shapes.cuh"

namespace fa::sm90 {

/// The state of a tile's sums, a counter among `dq_turns`: 0 nobody has come, 1 a warp sets them to
/// 0, 2 it has. `row`: the tile's first, among the padded ones of all heads.
template <class C>
__device__ int* sum_state(const kernel::BackwardParams& p, long long row, int part) {
  return p.dq_turns + row / C::rows * C::dq_parts + part;
}
inline constexpr int sums_cleared = 2;

/// Calls `step` with the first of the rows of each step of a tile, in the groups' order.
template <class C, typename Step>
__device__ void for_each_step(const kernel::BackwardParams& p, const KeysInHand& tile, Step step) {
  Place at{tile.place.sequence, tile.query_head, start_of<C>(tile), {0, tile.q_len, tile.q_len}};
#pragma unroll 1
  for (int left = steps_of<C>(tile, p.part_heads); left > 0; --left) {
    step(padded_row<C>(p, tile, at));
    if (++at.head == tile.query_head + p.part_heads) {
      at.head = tile.query_head;
      at.row = wrapped<C>(tile, at.row + C::rows);
    }
  }
}

/// It goes through the steps of the block's tiles ahead of the groups, waits for nobody, and sets
/// to 0 what no other block has begun with. A step's sums have `parts`, of which the block adds to
/// one.
template <class C, typename TilePipe, int parts = 1>
struct SumClearer {
  const kernel::BackwardParams& p;
  TilePipe tiles;
  const int part = 0;
  const int lane = threadIdx.x % 32;

  __device__ void run() {
    KeysInHand tile;
    while (take_tile(tiles, lane, tile)) {
      if (tile.begin == tile.end) continue;
      for_each_step<C>(p, tile, [&](long long row) {
        int* state = sum_state<C>(p, row, part);
        bool takes = false;
        if (lane == 0) takes = ptx::look_at_turn(state) == 0 && ptx::take_first_turn(state);
        if (!__shfl_sync(~0u, takes, 0)) return;
        clear(p.dq_sum + row * C::depth);
        __syncwarp();
        if (lane == 0) ptx::pass_turn(state);
      });
    }
  }

  __device__ void clear(float* sum) const {
    constexpr int count = C::rows * C::depth / parts / 4;
    float4* to = reinterpret_cast<float4*>(sum) + part * count;
#pragma unroll 8
    for (int i = lane; i < count; i += 32) to[i] = {0, 0, 0, 0};
  }
};

}  // namespace fa::sm90
