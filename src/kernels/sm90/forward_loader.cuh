// The warp that loads: it finds the block's tiles one after the other, tells them to the warp
// groups that compute, and copies Q, K and V into their pipes.
#pragma once

#include "ptx/proxy.cuh"
#include "ptx/turn.cuh"
#include "ptx/warp_group.cuh"
#include "sm90/forward_shapes.cuh"

namespace fa::sm90 {

template <class C>
struct ForwardLoader {
  using Shapes = ForwardShapes<C>;

  const kernel::TiledForwardParams& p;
  u32 shared;
  const int lane = threadIdx.x % 32;
  ForwardPipes<C> pipes;
  u32 landed_parity = 0;
  int index;  ///< of the tile among all
  TileInHand tile;
  long long first_key;  ///< of the tile's sequence, in the tensor

  __device__ ForwardLoader(const kernel::TiledForwardParams& params, u32 base)
      : p(params), shared(base), pipes(base) {}

  __device__ void run() {
    index = static_cast<int>(blockIdx.x);
    bool more = find_tile();
    while (more) {
      hand_out(true);
      more = load_tile();
    }
    hand_out(false);
  }

  /// From tile number `index` on, the first that has rows.
  __device__ bool find_tile() {
    for (; index < p.tiles; next()) {
      if (find()) return true;
    }
    return false;
  }

  /// False where the tile has no rows.
  __device__ bool find() {
    const kernel::ForwardParams& f = p.forward;
    tile.split = C::split ? index / p.blocks : 0;
    tile.place = find_place<Shapes::rows, C::packed_q, C::used_q>(
        f.order, f.rows, index - tile.split * p.blocks.value);
    const Place& place = tile.place;
    if (place.sequence < 0 || place.row >= place.rows.extent) return false;
    Side keys{0, 0, 0};
    if (place.sequence < f.order.batch) {  // else tokens behind the last sequence
      keys = side_of<C::packed_k, C::used_k>(f.keys, place.sequence, f.order.batch);
    }
    tile.k_len = keys.length;
    first_key = keys.begin;
    const Steps all = steps_of<C>(f, place, tile.k_len, tile.split, place.row, Shapes::rows);
    tile.begin = all.begin;
    tile.end = all.end;
    return true;
  }

  /// The block's tile after this one. A counter is asked as late as can be: who claims a long tile
  /// early keeps it from a block that is idle.
  __device__ void next() {
    if constexpr (C::claims) {
      int claimed = 0;
      if (lane == 0) claimed = ptx::take_number(p.claimed);
      index = static_cast<int>(gridDim.x) + __shfl_sync(~0u, claimed, 0);
    } else {
      index += static_cast<int>(gridDim.x);
    }
  }

  /// Tells the groups the tile, or that there is none.
  __device__ void hand_out(bool more) {
    if (!more) tile = {};
    Steps own{0, 0, 0, 0};
    if (lane < C::groups) {  // a lane for each group
      own = steps_of<C>(p.forward, tile.place, tile.k_len, tile.split,
                        tile.place.row + lane * Shapes::group_rows, Shapes::group_rows);
    }
    if (own.begin >= own.end) own = {tile.begin, tile.begin, tile.begin, tile.begin};
    pipes.tiles.wait_until_empty();
    const u32 at = pipes.tiles.stage();
    const auto begin = static_cast<unsigned long long>(tile.place.rows.begin);
    if (lane < C::groups) {
      ptx::store_shared(at + 48 + 16 * lane,
                        uint4{static_cast<u32>(own.begin), static_cast<u32>(own.end),
                              static_cast<u32>(own.full_begin), static_cast<u32>(own.full_end)});
    }
    if (lane == 0) {
      ptx::store_shared(
          at, uint4{static_cast<u32>(tile.place.sequence), static_cast<u32>(tile.place.head),
                    static_cast<u32>(tile.place.row), more ? 1u : 0u});
      ptx::store_shared(at + 16, uint4{static_cast<u32>(begin), static_cast<u32>(begin >> 32),
                                       static_cast<u32>(tile.place.rows.extent),
                                       static_cast<u32>(tile.place.rows.length)});
      ptx::store_shared(at + 32, uint4{static_cast<u32>(tile.k_len), static_cast<u32>(tile.begin),
                                       static_cast<u32>(tile.end), static_cast<u32>(tile.split)});
    }
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(pipes.tiles.full());
    pipes.tiles.next();
  }

  /// Loads the tile and finds the next one; false where there is none. The last step comes first:
  /// under a causal mask it is the masked one. K of a step comes before V of the step above it, as
  /// they are used.
  __device__ bool load_tile() {
    if (tile.begin >= tile.end) {
      next();
      return find_tile();
    }
    if constexpr (C::query_stages > 1) load_query();
    load_keys(tile.end - 1);
    if constexpr (C::query_stages == 1) load_query();  // whose place may still be in use
    for (int step = tile.end - 2; step >= tile.begin; --step) {
      load_keys(step);
      load_values(rows_of_step(step + 1));
    }
    const Piece last = rows_of_step(tile.begin);
    next();
    const bool more = find_tile();
    load_values(last);
    return more;
  }

  /// Rows of one head from `first` on, of which `count` exist.
  struct Piece {
    long long first;
    int head, sequence, count;
  };
  __device__ Piece rows_of_step(int step) const {
    return {first_key + step * C::keys, tile.place.head / p.forward.heads.group,
            C::packed_k ? 0 : tile.place.sequence, tile.k_len - step * C::keys};
  }

  /// Q's rows behind the last row are made 0, too: a warp renews its maximum for all of its rows,
  /// and what stands beside a sequence must not change that sequence's bits.
  __device__ void load_query() {
    const Place& place = tile.place;
    load<typename Shapes::QueryTile, C::packed_q || C::used_q>(
        pipes.q, p.q, p.forward.operands.q,
        {place.rows.begin + place.row, place.head, C::packed_q ? 0 : place.sequence,
         place.rows.length - place.row});
  }
  __device__ void load_keys(int step) {
    load<typename Shapes::KeyTile>(pipes.k, p.k, p.forward.operands.k, rows_of_step(step));
  }
  /// V's rows behind the last key are made 0: P is 0 there, but 0 times their NaN would not be. The
  /// copy engine does it where the tensor ends with the keys.
  __device__ void load_values(const Piece& rows) {
    load<typename Shapes::ValueTile, C::packed_k || C::used_k>(pipes.v, p.v, p.forward.operands.v,
                                                               rows);
  }

  template <typename Tile, bool clears = false, typename Stages>
  __device__ void load(Stages& pipe, const kernel::TensorMap& map, const kernel::View& view,
                       const Piece& rows) {
    pipe.wait_until_empty();
    if constexpr (C::alignment < 16) {  // the copy engine takes no such rows
      const char* from =
          static_cast<const char*>(view.data) +
          2 * (rows.sequence * view.batch + rows.first * view.row + rows.head * view.head);
      Tile::template copy<C::alignment>(pipe.stage(), from, 2 * view.row, rows.count, lane);
      end_stores(pipe.full());
    } else if (clears && rows.count < Tile::rows) {
      const u32 landed = shared + Shapes::landed;
      begin_copy<Tile>(pipe.stage(), map, rows, landed);
      ptx::mbarrier_wait(landed, landed_parity);
      landed_parity ^= 1;
      Tile::clear_rows(pipe.stage(), rows.count, lane);
      end_stores(pipe.full());
    } else {
      begin_copy<Tile>(pipe.stage(), map, rows, pipe.full());
    }
    pipe.next();
  }
  template <typename Tile>
  __device__ void begin_copy(u32 stage, const kernel::TensorMap& map, const Piece& rows,
                             u32 barrier) const {
    if (ptx::elect()) {
      ptx::mbarrier_arrive_expect(barrier, Tile::bytes);
      Tile::load(stage, &map, static_cast<int>(rows.first), rows.head, rows.sequence, barrier);
    }
    __syncwarp();
  }
  /// The groups' products see what this warp has stored.
  __device__ void end_stores(u32 barrier) const {
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(barrier);
  }
};

}  // namespace fa::sm90
