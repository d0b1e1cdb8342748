// The warps that add dQ to its sums in global memory, one for each group that computes. The group
// puts its part of a step's dQ into shared memory and goes on; the copy engine adds it.
#pragma once

#include "ptx/bulk_copy.cuh"
#include "ptx/proxy.cuh"
#include "ptx/turn.cuh"
#include "sm90/sum_clearer.cuh"
#include "tile/rows_in_sight.cuh"

namespace fa::sm90 {

template <class C>
struct BackwardAdder {
  using Shapes = BackwardShapes<C>;

  const kernel::BackwardParams& p;
  const int group;
  const int lane = threadIdx.x % 32;
  Shapes::TilePipe tiles;
  Shapes::SumPipe sums;
  KeysInHand tile;

  __device__ BackwardAdder(const kernel::BackwardParams& params, u32 base, int computing_group)
      : p(params),
        group(computing_group),
        tiles(BackwardPipes<C>(base).tiles),
        sums(Shapes::sums_of(base, computing_group)) {}

  __device__ void run() {
    while (take_tile(tiles, lane, tile)) {
      if (tile.begin < tile.end) walk();
    }
    if (lane == 0) ptx::bulk_wait<0>();
  }

  /// The group's steps in their order (BackwardGroup::walk).
  __device__ void walk() {
    Place at{tile.place.sequence, tile.query_head, start_of<C>(tile), {0, tile.q_len, tile.q_len}};
    int head = 0;
    // mutant "CUDA: dq of sm90" of emulated: 4 * group => 0
    float* sum = Shapes::QuerySum::part_of(p.dq_sum + padded_row<C>(p, tile, at) * Shapes::depth,
                                           4 * group, 0);
#pragma unroll 1
    for (int left = steps_of<C>(tile, p.part_heads); left > 0; --left) {
      at.head = tile.query_head + head;
      // One warp clears the parts of both groups.
      int* turn = sum_state<C>(p, padded_row<C>(p, tile, at), C::clears_sums ? 0 : group);
      constexpr bool looks = C::first_stores || C::clears_sums;
      const int seen = looks ? ptx::look_at_turn(turn) : 0;  // the answer takes a while
      sums.wait_until_full();
      add(sum, at, turn, seen);
      sums.release(lane);
      if (++head == p.part_heads) {
        head = 0;
        at.row = wrapped<C>(tile, at.row + C::rows);
      }
      sum += sum_move<C>(p, tile, at.row, head > 0);
    }
  }

  /// In an order, once it is this tile's turn; then the next one has it. In any order, once a warp
  /// has cleared the sums; or who comes first stores, and others wait until that is done.
  __device__ void add(float* sum, const Place& at, int* turn, int seen) {
    if (lane == 0) {
      bool stores = false;
      if constexpr (C::deterministic) {
        const RowsInSight<C> sight(p.window, tile.q_len, tile.place.rows.length, tile.place.row);
        ptx::wait_for_turn(turn, sight.turn_of(at.row));
        ptx::fence_proxy_async_global();
      }
      if constexpr (C::clears_sums) {
        ptx::wait_for_turn(turn, sums_cleared, seen);
        ptx::fence_proxy_async_global();
      }
      if constexpr (C::first_stores) {
        constexpr int stored = 2;
        stores = seen == 0 && ptx::take_first_turn(turn);
        if (!stores && seen < stored) {
          ptx::wait_for_turn(turn, stored);
          ptx::fence_proxy_async_global();
        }
      }
      if (stores) {
        ptx::bulk_store(sum, sums.stage(), Shapes::sum_bytes);
      } else {
        ptx::bulk_add(sum, sums.stage(), Shapes::sum_bytes);
      }
      ptx::bulk_commit();
      if (C::deterministic || stores) {
        ptx::bulk_wait<0>();
        ptx::pass_turn(turn);
      } else {
        ptx::bulk_wait_read<0>();
      }
    }
    __syncwarp();
  }
};

}  // namespace fa::sm90
