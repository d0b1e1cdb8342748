// The warp that loads: it finds the block's tiles one after the other, tells them to the warp groups
// that compute, and copies Q, K and V into their pipes.
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
  ForwardPipes<C> pipes{shared};
  u32 landed_parity = 0;

  __device__ void run() {
    for (int index = static_cast<int>(blockIdx.x); index < p.tiles;) {
      TileInHand tile;
      long long first_key = 0;
      if (!find(index, &tile, &first_key)) {
        index = next(index);
        continue;
      }
      hand_out(tile, true);
      load(tile, first_key, &index);
    }
    hand_out({}, false);
  }

  /// False where the tile has no rows.
  __device__ bool find(int index, TileInHand* tile, long long* first_key) const {
    const kernel::ForwardParams& f = p.forward;
    tile->split = 0;
    if constexpr (C::split) {
      tile->split = index / p.blocks;
      index -= tile->split * p.blocks.value;
    }
    tile->place = find_place<Shapes::rows, C::packed_q, C::used_q>(f.order, f.rows, index);
    const Place& place = tile->place;
    if (place.sequence < 0 || place.row >= place.rows.extent) return false;
    Side keys{0, 0, 0};
    if (place.sequence < f.order.batch) {  // else tokens behind the last sequence
      keys = side_of<C::packed_k, C::used_k>(f.keys, place.sequence, f.order.batch);
    }
    tile->k_len = keys.length;
    *first_key = keys.begin;
    const Steps all =
        steps_of<C>(f, place, tile->k_len, tile->split, place.row, Shapes::rows);
    tile->begin = all.begin;
    tile->end = all.end;
    return true;
  }

  /// The block's tile after this one. A counter is asked as late as can be: who claims a long tile
  /// early keeps it from a block that is idle.
  __device__ int next(int index) const {
    if constexpr (!C::claims) return index + static_cast<int>(gridDim.x);
    int claimed = 0;
    if (lane == 0) {
      claimed = ptx::take_number(p.claimed);
      if (claimed == p.tiles - 1) *p.claimed = 0;  // the last of all claims: ready for a next launch
    }
    return static_cast<int>(gridDim.x) + __shfl_sync(~0u, claimed, 0);
  }

  /// `more`: there is a tile.
  __device__ void hand_out(const TileInHand& tile, bool more) {
    pipes.tiles.wait_until_empty();
    if (lane == 0) {
      const u32 at = pipes.tiles.stage();
      const auto begin = static_cast<unsigned long long>(tile.place.rows.begin);
      ptx::store_shared(at, uint4{static_cast<u32>(tile.place.sequence),
                                  static_cast<u32>(tile.place.head),
                                  static_cast<u32>(tile.place.row), more ? 1u : 0u});
      ptx::store_shared(
          at + 16, uint4{static_cast<u32>(begin), static_cast<u32>(begin >> 32),
                         static_cast<u32>(tile.place.rows.extent),
                         static_cast<u32>(tile.place.rows.length)});
      ptx::store_shared(at + 32,
                        uint4{static_cast<u32>(tile.k_len), static_cast<u32>(tile.begin),
                              static_cast<u32>(tile.end), static_cast<u32>(tile.split)});
#pragma unroll
      for (int group = 0; group < C::groups; ++group) {
        Steps own = more ? steps_of<C>(p.forward, tile.place, tile.k_len, tile.split,
                                       tile.place.row + group * Shapes::group_rows,
                                       Shapes::group_rows)
                         : Steps{0, 0, 0, 0};
        if (own.begin >= own.end) own = {tile.begin, tile.begin, tile.begin, tile.begin};
        ptx::store_shared(at + 48 + 16 * group,
                          uint4{static_cast<u32>(own.begin), static_cast<u32>(own.end),
                                static_cast<u32>(own.full_begin), static_cast<u32>(own.full_end)});
      }
      ptx::mbarrier_arrive(pipes.tiles.full());
    }
    pipes.tiles.next();
  }

  /// The last step comes first: under a causal mask it is the masked one. K of a step comes before
  /// V of the step above it, as they are used.
  __device__ void load(const TileInHand& tile, long long first_key, int* index) {
    if (tile.begin >= tile.end) {
      *index = next(*index);
      return;
    }
    const Place& place = tile.place;
    load_rows<typename Shapes::QueryTile>(pipes.q, &p.q, place.rows.begin + place.row, place.head,
                                          C::packed_q ? 0 : place.sequence);
    const auto load_keys = [&](int step) {
      load_rows<typename Shapes::KeyTile>(pipes.k, &p.k, first_key + step * C::keys,
                                          place.head / p.forward.heads.group,
                                          C::packed_k ? 0 : place.sequence);
    };
    load_keys(tile.end - 1);
    for (int step = tile.end - 2; step >= tile.begin; --step) {
      load_keys(step);
      load_values(tile, first_key, step + 1);
    }
    *index = next(*index);
    load_values(tile, first_key, tile.begin);
  }

  template <typename Tile, typename Stages>
  __device__ void load_rows(Stages& pipe, const kernel::TensorMap* map, long long row, int head,
                            int sequence) {
    pipe.wait_until_empty();
    if (ptx::elect()) {
      ptx::mbarrier_arrive_expect(pipe.full(), Tile::bytes);
      Tile::load(pipe.stage(), map, static_cast<int>(row), head, sequence, pipe.full());
    }
    __syncwarp();
    pipe.next();
  }

  /// V's rows behind the last key are made 0: P is 0 there, but 0 times their NaN would not be. The
  /// copy engine does it where the tensor ends with the keys.
  __device__ void load_values(const TileInHand& tile, long long first_key, int step) {
    using Tile = typename Shapes::ValueTile;
    const int rows = tile.k_len - step * C::keys;
    const long long row = first_key + step * C::keys;
    const int head = tile.place.head / p.forward.heads.group;
    const int sequence = C::packed_k ? 0 : tile.place.sequence;
    if ((C::packed_k || C::used_k) && rows < C::keys) {
      const u32 landed = shared + Shapes::landed;
      pipes.v.wait_until_empty();
      if (ptx::elect()) {
        ptx::mbarrier_arrive_expect(landed, Tile::bytes);
        Tile::load(pipes.v.stage(), &p.v, static_cast<int>(row), head, sequence, landed);
      }
      __syncwarp();
      ptx::mbarrier_wait(landed, landed_parity);
      landed_parity ^= 1;
      for (int panel = 0; panel < Tile::panels; ++panel) {
        for (int at = rows * Tile::row_bytes + 16 * lane; at < Tile::panel_bytes; at += 16 * 32) {
          ptx::store_shared(pipes.v.stage() + panel * Tile::panel_bytes + at, uint4{0, 0, 0, 0});
        }
      }
      ptx::fence_proxy_async();
      __syncwarp();
      if (lane == 0) ptx::mbarrier_arrive(pipes.v.full());
      pipes.v.next();
    } else {
      load_rows<Tile>(pipes.v, &p.v, row, head, sequence);
    }
  }
};

}  // namespace fa::sm90
