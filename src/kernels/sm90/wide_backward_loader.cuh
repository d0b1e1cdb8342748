// The warp of a block that loads for wide heads: it finds the cluster's tiles of keys one after the
// other, as that of the other block does for itself, tells them to its groups, and copies K and V
// of its keys, the panels of the other block's K that its dQ needs, then Q, dO and their
// statistics of each step, into their pipes.
#pragma once

#include "ptx/bulk_copy.cuh"
#include "ptx/proxy.cuh"
#include "ptx/warp_group.cuh"
#include "sm90/wide_backward_shapes.cuh"
#include "tile/rows_in_sight.cuh"
#include "tile/uniform.cuh"

namespace fa::sm90 {

template <class C>
struct WideLoader {
  using Shapes = WideBackwardShapes<C>;
  using QueryPanels = Shapes::QueryPanels;
  using DoutPanels = Shapes::DoutPanels;
  using KeyPanels = Shapes::KeyPanels;
  using PeerPanels = Shapes::PeerPanels;
  using ValuePanels = Shapes::ValuePanels;

  /// Rows of one head from `first` on, of which `count` exist.
  struct Piece {
    int first, head, sequence, count;
  };
  /// The work of a step: rows of a sequence, of one of the heads that share the keys.
  struct Step {
    int row, head;
  };

  const kernel::TiledBackwardParams& p;
  const int rank;  ///< of the block in its cluster
  const int lane = threadIdx.x % 32;
  WidePipes<C> pipes;
  u32 landed;
  u32 landed_parity = 0;
  KeysInHand tile;
  int first_row;  ///< of the tile's sequence, in the tensors of rows

  __device__ WideLoader(const kernel::TiledBackwardParams& params, u32 base, int block_rank)
      : p(params), rank(block_rank), pipes(base), landed(base + Shapes::landed) {}

  /// Both blocks of a cluster take the same tiles: by their number, for a block cannot wait for the
  /// other one to tell it.
  __device__ void run() {
    const int clusters = static_cast<int>(gridDim.x) / 2;
    for (int index = static_cast<int>(blockIdx.x) / 2; index < p.tiles; index += clusters) {
      if (!find(index)) continue;
      hand_out(true);
      if (tile.begin < tile.end) load_steps();
    }
    hand_out(false);
  }

  /// Q of the first step comes first: its place is free before those of K and V.
  __device__ void load_steps() {
    Step step{tile.begin, 0};
    load_query(step);
    load_keys();
#pragma unroll 1
    for (;;) {
      load_dout(step);
      step = after(step);
      if (step.row >= tile.end) break;
      load_query(step);
    }
  }

  /// The heads of a tile of rows follow each other, as in sm80.
  __device__ Step after(const Step& step) const {
    if (step.head + 1 < p.backward.part_heads) return {step.row, step.head + 1};
    return {step.row + C::rows, 0};
  }

  /// False where the tile has no keys; those of the second block may be none.
  __device__ bool find(int index) {
    const kernel::BackwardParams& b = p.backward;
    // Each part of a key head counts as one of the heads whose tiles are shared out.
    Place& place = tile.place;
    place =
        find_place<C::keys, C::packed_k, C::used_k, Longest::first, true>(b.order, b.keys, index);
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

  /// Tells the block's groups the tile, or that there is none.
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

  /// Of the tile's keys, those of a block.
  __device__ Piece keys_of(int block) const {
    const Place& place = tile.place;
    const int first = place.row + block * Shapes::block_keys;
    const int count = place.rows.length - first;
    return {static_cast<int>(place.rows.begin) + first, place.head,
            C::packed_k ? 0 : place.sequence, count < 0 ? 0 : count};
  }

  /// The rows of K and V behind the last key are made 0: dS and P are 0 there, but 0 times their
  /// NaN would not be. The copy engine does it where the tensor ends with the keys.
  __device__ void load_keys() {
    const kernel::Operands& from = p.backward.operands;
    const Piece own = keys_of(rank), peer = keys_of(rank ^ 1);
    const int least = min(own.count, peer.count);
    // mutant "CUDA: last keys of wide heads" of emulated: least < Shapes::block_keys => false
    const bool clears = (C::packed_k || C::used_k) && least < Shapes::block_keys;
    const int panel = Shapes::first_panel(rank), column = panel * KeyPanels::panel;
    load(
        pipes.k, clears,
        [&](u32 stage, u32 barrier) {
          ptx::mbarrier_arrive_expect(barrier, KeyPanels::bytes + PeerPanels::bytes);
          KeyPanels::load(stage, &p.k, own.first, own.head, own.sequence, barrier);
          PeerPanels::load_panels(stage + KeyPanels::bytes, &p.k_panels, panel, peer.first,
                                  peer.head, peer.sequence, barrier);
        },
        [&](u32 stage) {
          copy<KeyPanels>(stage, from.k, own, 0, C::head_dim);
          copy<PeerPanels>(stage + KeyPanels::bytes, from.k, peer, column, C::head_dim);
        },
        [&](u32 stage) {
          KeyPanels::clear_rows(stage, own.count, lane);
          PeerPanels::clear_rows(stage + KeyPanels::bytes, peer.count, lane);
        });
    load(
        pipes.v, clears,
        [&](u32 stage, u32 barrier) {
          ptx::mbarrier_arrive_expect(barrier, ValuePanels::bytes);
          ValuePanels::load(stage, &p.v, own.first, own.head, own.sequence, barrier);
        },
        [&](u32 stage) { copy<ValuePanels>(stage, from.v, own, 0, C::head_dim_v); },
        [&](u32 stage) { ValuePanels::clear_rows(stage, own.count, lane); });
  }

  /// Q's rows behind the last one are made 0, like K's.
  __device__ void load_query(const Step& step) {
    const Piece rows = rows_of(step);
    load_rows<QueryPanels, C::head_dim>(
        pipes.q, p.q, p.backward.operands.q, rows, p.backward.lse_2 + statistics_of(step),
        pipes.lse(), is_cut(rows),
        [&](u32 stage) { QueryPanels::clear_rows(stage, rows.count, lane); });
  }
  /// A row that sees no key has no gradients, whatever its dO holds, nor has one behind the last:
  /// their LSE is +inf.
  __device__ void load_dout(const Step& step) {
    const Piece rows = rows_of(step);
    const long long statistics = statistics_of(step);
    const bool clears =
        is_cut(rows) || C::bias != Number::none || rows_in_sight().some_see_none(step.row);
    load_rows<DoutPanels, C::head_dim_v>(pipes.dout, p.dout, p.backward.dout, rows,
                                         p.backward.delta + statistics, pipes.delta(), clears,
                                         [&](u32 stage) { clear_empty_rows(stage, statistics); });
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
    return (C::packed_q || C::used_q) && rows.count < C::rows;
  }
  __device__ long long statistics_of(const Step& step) const {
    return (tile.query_head + step.head) * p.backward.padded_rows +
           static_cast<long long>(tile.padded_tile) * C::rows + step.row;
  }

  /// Q or dO of a step, of `columns`, and the rows' statistics.
  template <typename Tile, int columns, typename Stages, typename Clear>
  __device__ void load_rows(Stages& pipe, const kernel::TensorMap& map, const kernel::View& view,
                            const Piece& rows, const float* statistics, u32 statistics_to,
                            bool clears, const Clear& clear) {
    load(
        pipe, clears,
        [&](u32 stage, u32 barrier) {
          ptx::mbarrier_arrive_expect(barrier, Tile::bytes + Shapes::statistic_bytes);
          Tile::load(stage, &map, rows.first, rows.head, rows.sequence, barrier);
          ptx::bulk_load(statistics_to, statistics, Shapes::statistic_bytes, barrier);
        },
        [&](u32 stage) {
          copy<Tile>(stage, view, rows, 0, columns);
          if (lane < C::rows / 4) {
            ptx::store_shared(statistics_to + 16 * lane,
                              reinterpret_cast<const uint4*>(statistics)[lane]);
          }
        },
        clear);
  }

  /// Fills a stage: begin(stage, barrier) begins copies by the copy engine, copy(stage) copies by
  /// loads and stores, which rows that are not aligned to 16 bytes need. `clears`: clear(stage)
  /// sets some rows to 0, whatever the tensor holds there.
  template <typename Stages, typename Begin, typename Copy, typename Clear>
  __device__ void load(Stages& pipe, bool clears, const Begin& begin, const Copy& copy,
                       const Clear& clear) {
    pipe.wait_until_empty();
    const u32 stage = pipe.stage();
    if constexpr (C::alignment < 16) {
      copy(stage);
      __syncwarp();
      if (clears) clear(stage);
      end_stores(pipe.full());
    } else {
      if (ptx::elect()) begin(stage, clears ? landed : pipe.full());
      __syncwarp();
      if (clears) {
        ptx::mbarrier_wait(landed, landed_parity);
        landed_parity ^= 1;
        clear(stage);
        end_stores(pipe.full());
      }
    }
    pipe.next();
  }
  template <typename Tile>
  __device__ void copy(u32 stage, const kernel::View& view, const Piece& rows, int column,
                       int columns) const {
    const char* from =
        static_cast<const char*>(view.data) +
        2 * (rows.sequence * view.batch + rows.first * view.row + rows.head * view.head + column);
    Tile::template copy<C::alignment>(stage, from, 2 * view.row, rows.count, lane,
                                      columns - column);
  }
  /// The groups' products see what this warp has stored.
  __device__ void end_stores(u32 barrier) const {
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(barrier);
  }
};

}  // namespace fa::sm90
