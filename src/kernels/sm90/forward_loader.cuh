// The warp that loads: it finds the block's tiles one after the other, tells them to the warp
// groups that compute, and copies Q, K, V and the bias into their pipes.
#pragma once

#include "ptx/proxy.cuh"
#include "sm90/forward_shapes.cuh"
#include "tile/stage_filler.cuh"
#include "tile/tile_claims.cuh"

namespace fa::sm90 {

template <class C>
struct ForwardLoader {
  using Shapes = ForwardShapes<C>;
  /// Q of the next tile comes before the tile's last steps, so that nobody waits for it.
  static constexpr bool query_ahead = C::query_stages > 1;

  /// Rows of one head from `first` on, of which `count` exist.
  struct Piece {
    int first, head, sequence, count;

    __device__ Piece step(int n) const {
      return {first + n * C::keys, head, sequence, count - n * C::keys};
    }
  };
  const kernel::TiledForwardParams& p;
  const int lane = threadIdx.x % 32;
  ForwardPipes<C> pipes;
  StageFiller filler;
  TileClaims<C::claims ? Claims::after_first : Claims::none> claims;
  ShareWalk<C> walk;
  TileInHand tile;
  int first_key;      ///< of the tile's sequence, in the tensor
  bool told = false;  ///< to the kernel that joins shares: the share's last tile
  /// Of the tile whose steps are on their way, which may be the one before.
  Piece keys{0, 0, 0, 0}, bias{0, 0, 0, 0};

  __device__ ForwardLoader(const kernel::TiledForwardParams& params, u32 base)
      : p(params),
        pipes(base),
        filler(base + Shapes::landed),
        claims(params.counter, params.launch, params.tiles, lane),
        walk(params.forward, params.shares) {}

  /// The last step of a tile comes first: under a causal mask it is the masked one. The next tile
  /// is found before the last steps, so that its Q comes in time.
  __device__ void run() {
    claims.begin();
    if constexpr (C::shares) begin_shares();
    clear_unused_rows();
    int begin = 0, rest = 0;  // steps of the tile before that are yet to come
    for (;;) {
      const bool more = find_tile();
      hand_out(more);
      const bool steps = more && tile.begin < tile.end;
      if (query_ahead && steps) load_query();
#pragma unroll 1
      for (int step = rest - 1; step >= begin; --step) load_step(step, begin);
      if (!more) break;
      begin = rest = tile.begin;
      int step = tile.end - 1;
      if (steps) {
        keys = keys_of_tile();
        bias = bias_of_tile();
        load_keys(step);
        load_bias(step);
        if (!query_ahead) load_query();  // whose place may still be in use
        rest = min(begin + C::steps_ahead + 1, tile.end);
#pragma unroll 1
        for (; step > rest; --step) load_step(step, begin);
      }
      if constexpr (!C::shares) claims.ask();
      if (steps && step == rest) load_step(step, begin);  // while the counter answers
      if constexpr (!C::shares) claims.next();
    }
  }

  /// V of the step, and K and the bias of the one below it. V does not wait for a place of the
  /// bias, which is in use until the step's scores are formed.
  __device__ void load_step(int step, int begin) {
    if (step > begin) load_keys(step - 1);
    load_values(step);
    if (step > begin) load_bias(step - 1);
  }

  /// The first tile that has rows, from the claimed one on; false where there is none.
  __device__ bool find_tile() {
    if constexpr (C::shares) {
      return find_share();
    } else {
      while (claims.index < claims.tiles && !find()) {
        claims.ask();
        claims.next();
      }
      return claims.index < claims.tiles;
    }
  }

  __device__ void begin_shares() {
    walk.begin();
    const int blocks = static_cast<int>(gridDim.x);
    claims.tiles = walk.count > blocks ? walk.count : blocks;
    if (blockIdx.x == 0 && lane == 0) *p.shares.count = walk.count;
    if (claims.index < walk.count) walk.take(claims.index);
  }

  /// The next tile of the share in hand, or of the next share.
  __device__ bool find_share() {
    SharedSteps found;
    while (!walk.next(found)) {
      if (claims.index < walk.count && lane == 0 && !told) {
        p.shares.tiles[walk.share].last_share = -1;
      }
      told = false;
      claims.ask();
      claims.next();
      if (claims.index >= walk.count) return false;
      walk.take(claims.index);
    }
    tile.place = found.place;
    tile.k_len = found.keys.length;
    tile.sharers = found.sharers;
    first_key = static_cast<int>(found.keys.begin);
    const Steps all = steps_of_rows(0, used_rows());
    tile.begin = all.begin > found.begin ? all.begin : found.begin;
    tile.end = min(all.end, found.end);
    if (tile.begin >= tile.end) tile.begin = tile.end = 0;
    if (!found.sharers.alone() && found.sharers.own == found.sharers.first) {
      told = true;
      const Place& place = found.place;
      if (lane == 0) {
        p.shares.tiles[found.sharers.own] = {
            place.rows.begin, place.rows.extent, place.rows.length, place.sequence,
            place.head,       place.row,         found.sharers.last};
      }
    }
    return true;
  }

  /// False where the tile has no rows.
  __device__ bool find() {
    const kernel::ForwardParams& f = p.forward;
    tile.split = C::split ? claims.index / p.blocks : 0;
    const int number = claims.index - tile.split * p.blocks.value;
    if constexpr (C::side_by_side) {
      tile.place =
          find_place<C::packed_q, C::used_q>(f.order, f.rows, number, p.side_by_side.positions);
      tile.place.head *= p.side_by_side.heads.value;
    } else {
      tile.place = find_place<Shapes::rows, C::packed_q, C::used_q>(f.order, f.rows, number);
    }
    const Place& place = tile.place;
    if (place.sequence < 0 || place.row >= place.rows.extent) return false;
    Side keys{0, 0, 0};
    if (place.sequence < f.order.batch) {  // else tokens behind the last sequence
      keys = side_of<C::packed_k, C::used_k>(f.keys, place.sequence, f.order.batch);
    }
    tile.k_len = keys.length;
    first_key = static_cast<int>(keys.begin);
    const Steps all = steps_of_rows(0, used_rows());
    tile.begin = all.begin;
    tile.end = all.end;
    return true;
  }

  /// Rows of a tile that may exist.
  __device__ int used_rows() const {
    return C::side_by_side ? p.side_by_side.rows() : Shapes::rows;
  }
  /// Of the tile's rows [begin, end).
  __device__ Steps steps_of_rows(int begin, int end) const {
    int first = begin, last = end - 1;
    if constexpr (C::side_by_side) {
      first = first / p.side_by_side.heads;
      last = last / p.side_by_side.heads;
      if (end <= begin) last = first - 1;
    }
    return steps_of<C>(p.forward, tile.place, tile.k_len, tile.split, tile.place.row + first,
                       last - first + 1);
  }

  /// Tells the groups the tile, or that there is none.
  __device__ void hand_out(bool more) {
    if (!more) tile = {};
    Steps own{0, 0, 0, 0};
    if (lane < C::groups) {  // a lane for each group
      const int first = lane * Shapes::group_rows;
      own = steps_of_rows(first, min(first + Shapes::group_rows, used_rows()));
      if constexpr (C::shares) {
        own.begin = own.begin > tile.begin ? own.begin : tile.begin;
        own.end = min(own.end, tile.end);
      }
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
                    static_cast<u32>(tile.place.row),
                    more ? 1 + static_cast<u32>(C::shares ? tile.sharers.own : 0) : 0u});
      ptx::store_shared(at + 16, uint4{static_cast<u32>(begin), static_cast<u32>(begin >> 32),
                                       static_cast<u32>(tile.place.rows.extent),
                                       static_cast<u32>(tile.place.rows.length)});
      ptx::store_shared(at + 32, uint4{static_cast<u32>(tile.k_len), static_cast<u32>(tile.begin),
                                       static_cast<u32>(tile.end), told_share()});
    }
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(pipes.tiles.full());
    pipes.tiles.next();
  }

  /// The split, or who shares the tile.
  __device__ u32 told_share() const {
    return C::shares ? static_cast<u32>(tile.sharers.first | tile.sharers.last << 16)
                     : static_cast<u32>(tile.split);
  }

  __device__ Piece keys_of_tile() const {
    return {first_key, tile.place.head / p.forward.heads.group,
            C::packed_k ? 0 : tile.place.sequence, tile.k_len};
  }

  /// Along what the bias has but one number of, all tiles read the same.
  __device__ Piece bias_of_tile() const {
    const kernel::View& view = p.forward.score.bias;
    const Place& place = tile.place;
    // mutant "CUDA: bias by the copy engine" of emulated: place.row => 0
    return {C::bias_per_row ? place.row : 0, view.head != 0 ? place.head : 0,
            view.batch != 0 ? place.sequence : 0, 0};
  }

  /// Q's rows behind the last row are made 0, too: a warp renews its maximum for all of its rows,
  /// and what stands beside a sequence must not change that sequence's bits.
  __device__ void load_query() {
    const Place& place = tile.place;
    const int heads = C::side_by_side ? p.side_by_side.heads.value : 1;
    load<typename Shapes::QueryTile, C::packed_q || C::used_q, C::side_by_side>(
        pipes.q, p.q, p.forward.operands.q,
        {static_cast<int>(place.rows.begin) + place.row, place.head,
         C::packed_q ? 0 : place.sequence, (place.rows.length - place.row) * heads});
  }
  /// Rows of Q that no copy brings, for as long as the block stays.
  __device__ void clear_unused_rows() {
    if constexpr (C::side_by_side) {
      for (int i = 0; i < C::query_stages; ++i) {
        Shapes::QueryTile::clear_rows(pipes.q.memory + i * Shapes::QueryTile::bytes, used_rows(),
                                      lane);
      }
      ptx::fence_proxy_async();
      __syncwarp();
    }
  }
  __device__ void load_keys(int step) {
    if constexpr (C::paged) {
      load_pages<typename Shapes::KeyTile, false>(pipes.k, p.k, p.forward.operands.k,
                                                  keys.step(step));
    } else {
      load<typename Shapes::KeyTile>(pipes.k, p.k, p.forward.operands.k, keys.step(step));
    }
  }
  __device__ void load_bias(int step) {
    if constexpr (C::bias_stages > 0) {
      using Tile = Shapes::BiasTile;
      pipes.bias.wait_until_empty();
      if (ptx::elect()) {
        ptx::mbarrier_arrive_expect(pipes.bias.full(), Tile::bytes);
        Tile::load_panels(pipes.bias.stage(), &p.bias, step * Tile::panels, bias.first, bias.head,
                          bias.sequence, pipes.bias.full());
      }
      __syncwarp();
      pipes.bias.next();
    }
  }
  /// V's rows behind the last key are made 0: P is 0 there, but 0 times their NaN would not be. The
  /// copy engine does it where the tensor ends with the keys.
  __device__ void load_values(int step) {
    if constexpr (C::paged) {
      load_pages<typename Shapes::ValueTile, true>(pipes.v, p.v, p.forward.operands.v,
                                                   keys.step(step));
    } else {
      load<typename Shapes::ValueTile, C::packed_k || C::used_k>(pipes.v, p.v, p.forward.operands.v,
                                                                 keys.step(step));
    }
  }

  /// K or V of a step from the pages of a cache, a lane for each piece of page_rows rows. Pieces
  /// behind the last key are not read.
  template <typename Tile, bool may_clear, typename Stages>
  __device__ void load_pages(Stages& pipe, const kernel::TensorMap& map, const kernel::View& view,
                             const Piece& rows) {
    const KeyPages pages(p.forward.pages, rows.sequence, rows.first + rows.count);
    filler.fill_by_lanes<(C::page_rows > 0)>(
        pipe, lane, may_clear && rows.count < Tile::rows,
        [&](u32 stage, u32 barrier) {
          constexpr int size = C::page_rows > 0 ? C::page_rows : Tile::rows;
          const int count = (min(rows.count, Tile::rows) + size - 1) / size;
          if (ptx::elect()) {
            ptx::mbarrier_arrive_expect(barrier, count * Tile::panels * size * Tile::row_bytes);
          }
          __syncwarp();
          if (lane < count) {
            const PageRow at = pages.of(rows.first + lane * size);
            Tile::template load_part<size>(stage, lane * size, &map, at.row, rows.head, at.page,
                                           barrier);
          }
        },
        [&](u32 stage) {
          const char* from = static_cast<const char*>(view.data) + 2 * rows.head * view.head;
          Tile::template copy_rows<C::alignment>(
              stage,
              [&](int row) {
                const PageRow at = pages.of(rows.first + row);
                return from + 2 * (at.page * view.batch + at.row * view.row);
              },
              rows.count, lane);
        },
        [&](u32 stage) { Tile::clear_rows(stage, rows.count, lane); });
  }

  template <typename Tile, bool may_clear = false, bool side_by_side = false, typename Stages>
  __device__ void load(Stages& pipe, const kernel::TensorMap& map, const kernel::View& view,
                       const Piece& rows) {
    const bool clears = may_clear && rows.count < (side_by_side ? used_rows() : Tile::rows);
    filler.fill<C::alignment == 16>(
        pipe, lane, clears,
        [&](u32 stage, u32 barrier) {
          if constexpr (side_by_side) {
            ptx::mbarrier_arrive_expect(barrier, Tile::panels * used_rows() * Tile::row_bytes);
            Tile::load_heads(stage, &map, rows.first, rows.head, rows.sequence, barrier);
          } else {
            ptx::mbarrier_arrive_expect(barrier, Tile::bytes);
            Tile::load(stage, &map, rows.first, rows.head, rows.sequence, barrier);
          }
        },
        [&](u32 stage) {  // which makes these rows 0 itself
          const char* from =
              static_cast<const char*>(view.data) +
              2 * (rows.sequence * view.batch + rows.first * view.row + rows.head * view.head);
          Tile::template copy<C::alignment>(stage, from, 2 * view.row, rows.count, lane);
        },
        [&](u32 stage) { Tile::clear_rows(stage, rows.count, lane); });
  }
};

}  // namespace fa::sm90
