// The warp that loads: it finds the block's tiles of keys one after the other, tells them to the
// warp groups that compute, and copies K and V of each tile, then Q, dO and their statistics of
// each step, into their pipes.
#pragma once

#include "ptx/bulk_copy.cuh"
#include "ptx/proxy.cuh"
#include "ptx/warp_group.cuh"
#include "sm90/backward_shapes.cuh"
#include "tile/rows_in_sight.cuh"
#include "tile/tile_claims.cuh"

namespace fa::sm90 {

template <class C>
struct BackwardLoader {
  using Shapes = BackwardShapes<C>;
  using QueryPanels = Shapes::QueryPanels;
  using DoutPanels = Shapes::DoutPanels;

  /// Rows of one head from `first` on, of which `count` exist.
  struct Piece {
    int first, head, sequence, count;
  };
  /// The work of a step: rows of a sequence, of one of the heads that share the keys.
  struct Step {
    int row, head;
  };

  const kernel::TiledBackwardParams& p;
  u32 shared;
  const int lane = threadIdx.x % 32;
  BackwardPipes<C> pipes;
  u32 landed_parity = 0;
  TileClaims<Claims::all> claims;
  KeysInHand tile;
  int first_row;  ///< of the tile's sequence, in the tensors of rows

  __device__ BackwardLoader(const kernel::TiledBackwardParams& params, u32 base)
      : p(params),
        shared(base),
        pipes(base),
        claims(params.counter, params.launch, params.tiles, lane) {}

  __device__ void run() {
    claims.begin();
    for (;;) {
      const bool more = find_tile();
      hand_out(more);
      if (!more) break;
      if (tile.begin < tile.end) {
        load_steps();
      } else {
        claims.ask();
      }
      claims.next();
    }
  }

  /// Q of the first step comes first: its place is free before those of K and V.
  __device__ void load_steps() {
    Step step{tile.begin, 0};
    load_query(step);
    load_keys();
#pragma unroll 1
    for (;;) {
      const Step next = after(step);
      const bool last = next.row >= tile.end;
      if (last) claims.ask();  // while the answer comes, the last step loads
      load_dout(step);
      if (last) break;
      step = next;
      load_query(step);
    }
  }

  /// The heads of a tile of rows follow each other, as in sm80.
  __device__ Step after(const Step& step) const {
    if (step.head + 1 < p.backward.part_heads) return {step.row, step.head + 1};
    return {step.row + C::rows, 0};
  }

  /// The first tile that has keys, from the claimed one on; false where there is none.
  __device__ bool find_tile() {
    while (claims.index < claims.tiles && !find()) {
      claims.ask();
      claims.next();
    }
    return claims.index < claims.tiles;
  }

  /// False where the tile has no keys.
  __device__ bool find() {
    const kernel::BackwardParams& b = p.backward;
    // Each part of a key head counts as one of the heads whose tiles are shared out.
    constexpr Longest longest = C::deterministic ? Longest::last : Longest::first;
    Place& place = tile.place;
    place =
        find_place<C::keys, C::packed_k, C::used_k, longest, true>(b.order, b.keys, claims.index);
    if (place.sequence < 0 || place.row >= place.rows.extent) return false;
    const int head = place.head / b.parts;
    tile.part = place.head - head * b.parts.value;
    place.head = head;
    tile.query_head = head * b.heads.group.value + tile.part * b.part_heads;
    Side rows{0, 0, 0};
    if (place.sequence < b.order.batch) {  // else keys behind the last sequence
      rows = side_of<C::packed_q, C::used_q>(b.rows, place.sequence, b.order.batch);
    }
    first_row = static_cast<int>(rows.begin);
    tile.q_len = rows.length;
    tile.padded_tile =
        static_cast<int>(Shapes::padded_row_begin(b.rows, place.sequence, rows) / C::rows);
    const RowsInSight<C> sight = rows_in_sight();
    const RowSpan full = sight.full_tiles();
    tile.begin = sight.first_row;
    tile.end = sight.last_row < sight.first_row ? tile.begin : sight.last_row + C::rows;
    tile.full_begin = full.begin;
    tile.full_end = full.end;
    return true;
  }
  __device__ RowsInSight<C> rows_in_sight() const {
    return {p.backward.window, tile.q_len, tile.place.rows.length, tile.place.row};
  }

  /// Tells the groups the tile, or that there is none.
  __device__ void hand_out(bool more) {
    pipes.tiles.wait_until_empty();
    if (lane == 0) {
      const u32 at = pipes.tiles.stage();
      const Place& place = tile.place;
      const auto word = [](int x) { return static_cast<u32>(x); };
      const auto begin = static_cast<unsigned long long>(place.rows.begin);
      ptx::store_shared(
          at, uint4{word(place.sequence), word(place.head), word(place.row), more ? 1u : 0u});
      ptx::store_shared(at + 16, uint4{word(place.rows.extent), word(place.rows.length),
                                       static_cast<u32>(begin), static_cast<u32>(begin >> 32)});
      ptx::store_shared(at + 32, uint4{word(tile.part), word(tile.query_head), word(tile.q_len),
                                       word(tile.padded_tile)});
      ptx::store_shared(at + 48, uint4{word(tile.begin), word(tile.end), word(tile.full_begin),
                                       word(tile.full_end)});
    }
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(pipes.tiles.full());
    pipes.tiles.next();
  }

  /// The rows of K and V behind the last key are made 0: dS and P are 0 there, but 0 times their
  /// NaN would not be. The copy engine does it where the tensor ends with the keys.
  __device__ void load_keys() {
    const Place& place = tile.place;
    const Piece keys{static_cast<int>(place.rows.begin) + place.row, place.head,
                     C::packed_k ? 0 : place.sequence, place.rows.length - place.row};
    // mutant "CUDA: keys behind the last one in sm90" of emulated: keys.count < C::keys => false
    const bool clears = (C::packed_k || C::used_k) && keys.count < C::keys;
    using KeyPanels = Shapes::KeyPanels;
    using ValuePanels = Shapes::ValuePanels;
    load<KeyPanels>(pipes.k, p.k, p.backward.operands.k, keys, nullptr, clears,
                    [&](u32 stage) { KeyPanels::clear_rows(stage, keys.count, lane); });
    load<ValuePanels>(pipes.v, p.v, p.backward.operands.v, keys, nullptr, clears,
                      [&](u32 stage) { ValuePanels::clear_rows(stage, keys.count, lane); });
  }

  /// Q's rows behind the last one are made 0, like K's.
  __device__ void load_query(const Step& step) {
    const Piece rows = rows_of(step);
    load<QueryPanels>(pipes.q, p.q, p.backward.operands.q, rows,
                      p.backward.lse_2 + statistics_of(step), is_cut(rows),
                      [&](u32 stage) { QueryPanels::clear_rows(stage, rows.count, lane); });
  }
  /// A row that sees no key has no gradients, whatever its dO holds, nor has one behind the last:
  /// their LSE is +inf.
  __device__ void load_dout(const Step& step) {
    const Piece rows = rows_of(step);
    const long long statistics = statistics_of(step);
    const RowsInSight<C> sight = rows_in_sight();
    // mutant "CUDA: empty rows in sm90" of emulated: sight.some_see_none(step.row) => false
    const bool clears = is_cut(rows) || C::bias != Number::none || sight.some_see_none(step.row);
    load<DoutPanels>(pipes.dout, p.dout, p.backward.dout, rows, p.backward.delta + statistics,
                     clears, [&](u32 stage) { clear_empty_rows(stage, statistics); });
  }
  __device__ void clear_empty_rows(u32 stage, long long statistics) const {
#pragma unroll 1
    for (int first = 0; first < C::rows; first += 32) {
      const float lse = p.backward.lse_2[statistics + first + lane];
      unsigned empty = __ballot_sync(~0u, lse == -ptx::minus_infinity);
      for (; empty != 0; empty &= empty - 1) {
        DoutPanels::clear_row(stage, first + __ffs(static_cast<int>(empty)) - 1, lane);
      }
    }
  }

  __device__ Piece rows_of(const Step& step) const {
    return {first_row + step.row, tile.query_head + step.head,
            C::packed_q ? 0 : tile.place.sequence, tile.q_len - step.row};
  }
  /// Whether the copy engine brings rows that do not count and may be anything.
  __device__ bool is_cut(const Piece& rows) const {
    // mutant "CUDA: rows behind the last one in sm90" of emulated: rows.count < C::rows => false
    return (C::packed_q || C::used_q) && rows.count < C::rows;
  }
  __device__ long long statistics_of(const Step& step) const {
    return (tile.query_head + step.head) * p.backward.padded_rows +
           static_cast<long long>(tile.padded_tile) * C::rows + step.row;
  }

  /// A tile, with the rows' `statistics` if there are any. `clears`: clear(stage) sets some rows to
  /// 0, whatever the tensor holds there.
  template <typename Tile, typename Stages, typename Clear>
  __device__ void load(Stages& pipe, const kernel::TensorMap& map, const kernel::View& view,
                       const Piece& rows, const float* statistics, bool clears,
                       const Clear& clear) {
    pipe.wait_until_empty();
    const u32 stage = pipe.stage();
    if constexpr (C::alignment < 16) {  // the copy engine takes no such rows
      const char* from =
          static_cast<const char*>(view.data) +
          2 * (rows.sequence * view.batch + rows.first * view.row + rows.head * view.head);
      Tile::template copy<C::alignment>(stage, from, 2 * view.row, rows.count, lane);
      if (statistics != nullptr && lane < C::rows / 4) {
        ptx::store_shared(stage + Tile::bytes + 16 * lane,
                          reinterpret_cast<const uint4*>(statistics)[lane]);
      }
      __syncwarp();
      if (clears) clear(stage);
      end_stores(pipe.full());
    } else if (clears) {
      const u32 landed = shared + Shapes::landed;
      begin_copy<Tile>(stage, map, rows, statistics, landed);
      ptx::mbarrier_wait(landed, landed_parity);
      landed_parity ^= 1;
      clear(stage);
      end_stores(pipe.full());
    } else {
      begin_copy<Tile>(stage, map, rows, statistics, pipe.full());
    }
    pipe.next();
  }
  template <typename Tile>
  __device__ void begin_copy(u32 stage, const kernel::TensorMap& map, const Piece& rows,
                             const float* statistics, u32 barrier) const {
    if (ptx::elect()) {
      const int more = statistics != nullptr ? Shapes::statistic_bytes : 0;
      ptx::mbarrier_arrive_expect(barrier, Tile::bytes + more);
      Tile::load(stage, &map, rows.first, rows.head, rows.sequence, barrier);
      if (statistics != nullptr) ptx::bulk_load(stage + Tile::bytes, statistics, more, barrier);
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
