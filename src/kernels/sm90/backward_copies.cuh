// What the warps that load do in both backward kernels: they find a tile of keys, tell it to the
// warps that work on it, and copy Q, dO and their statistics of each step into their pipes.
#pragma once

#include "ptx/bulk_copy.cuh"
#include "sm90/backward_shapes.cuh"
#include "tile/rows_in_sight.cuh"
#include "tile/stage_filler.cuh"

namespace fa::sm90 {

/// Rows of one head from `first` on, of which `count` exist.
struct Piece {
  int first, head, sequence, count;
};

/// The work of a step: rows of a sequence, of one of the heads that share the keys.
struct RowStep {
  int row, head;
};

/// Shapes and Pipes: the kernel's own.
template <class C, typename Shapes, typename Pipes>
struct BackwardCopies {
  using QueryPanels = Shapes::QueryPanels;
  using DoutPanels = Shapes::DoutPanels;

  const kernel::TiledBackwardParams& p;
  const int lane = threadIdx.x % 32;
  Pipes pipes;
  StageFiller filler;
  static constexpr bool by_engine = C::alignment == 16;
  KeysInHand tile;
  int first_row;  ///< of the tile's sequence, in the tensors of rows

  /// landed: the filler's barrier, from `base` on.
  __device__ BackwardCopies(const kernel::TiledBackwardParams& params, u32 base,
                            u32 landed = Shapes::landed)
      : p(params), pipes(base), filler(base + landed) {}

  /// Finds tile number `index` of the launch; false where it has no keys.
  __device__ bool find(int index) {
    const kernel::BackwardParams& b = p.backward;
    // Each part of a key head counts as one of the heads whose tiles are shared out.
    constexpr Longest longest = C::deterministic ? Longest::last : Longest::first;
    Place& place = tile.place;
    place = find_place<C::keys, C::packed_k, C::used_k, longest, true>(b.order, b.keys, index);
    if (place.sequence < 0 || place.row >= place.rows.extent) return false;
    const int head = place.head / b.parts;
    tile.part = place.head - head * b.parts.value;
    place.head = head;
    tile.query_head = head * b.heads.group.value + tile.part * b.part_heads;
    const Side rows = find_rows();
    tile.q_len = rows.length;
    tile.padded_tile =
        static_cast<int>(padded_row_begin<C>(b.rows, place.sequence, rows) / C::rows);
    const RowsInSight<C> sight = rows_in_sight();
    const RowSpan full = sight.full_tiles();
    tile.begin = sight.first_row;
    tile.end = sight.last_row < sight.first_row ? tile.begin : sight.last_row + C::rows;
    tile.full_begin = full.begin;
    tile.full_end = full.end;
    return true;
  }
  /// The rows of the tile's sequence.
  __device__ Side find_rows() {
    const kernel::BackwardParams& b = p.backward;
    const int sequence = tile.place.sequence;
    Side rows{0, 0, 0};
    if (sequence < b.order.batch) {  // else keys behind the last sequence
      rows = side_of<C::packed_q, C::used_q>(b.rows, sequence, b.order.batch);
    }
    first_row = static_cast<int>(rows.begin);
    return rows;
  }
  __device__ RowsInSight<C> rows_in_sight() const {
    return {p.backward.window, tile.q_len, tile.place.rows.length, tile.place.row};
  }

  /// Tells the others the tile, or that there is none.
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

  /// Of the tile's keys, those of a block of the cluster.
  __device__ Piece keys_of(int block) const {
    const Place& place = tile.place;
    const int first = place.row + block * Shapes::block_keys;
    const int count = place.rows.length - first;
    return {static_cast<int>(place.rows.begin) + first, place.head,
            C::packed_k ? 0 : place.sequence, count < 0 ? 0 : count};
  }
  /// Whether the rows of K and V behind the last key are made 0: dS and P are 0 there, but 0 times
  /// their NaN would not be. The copy engine does it where the tensor ends with the keys.
  static __device__ bool is_cut_off(const Piece& keys) {
    constexpr int all = Shapes::block_keys;
    // mutant "CUDA: keys behind the last one in sm90" of emulated: keys.count < all => false
    return (C::packed_k || C::used_k) && keys.count < all;
  }
  /// K or V of these keys, of `columns`.
  template <typename Tile, int columns, typename Stages>
  __device__ void load_keys(Stages& pipe, const kernel::TensorMap& map, const kernel::View& view,
                            const Piece& keys) {
    filler.fill<by_engine>(
        pipe, lane, is_cut_off(keys),
        [&](u32 stage, u32 barrier) {
          ptx::mbarrier_arrive_expect(barrier, Tile::bytes);
          Tile::load(stage, &map, keys.first, keys.head, keys.sequence, barrier);
        },
        [&](u32 stage) { copy<Tile>(stage, view, keys, 0, columns); },
        [&](u32 stage) { Tile::clear_rows(stage, keys.count, lane); });
  }
  __device__ void load_values(int block) {
    load_keys<typename Shapes::ValuePanels, C::head_dim_v>(pipes.v, p.v, p.backward.operands.v,
                                                           keys_of(block));
  }

  __device__ RowStep first_step() const { return {start_of<C>(tile), 0}; }
  __device__ int steps() const { return steps_of<C>(tile, p.backward.part_heads); }
  /// The heads of a tile of rows follow each other, as in sm80.
  __device__ RowStep after(const RowStep& step) const {
    if (step.head + 1 < p.backward.part_heads) return {step.row, step.head + 1};
    return {wrapped<C>(tile, step.row + C::rows), 0};
  }

  /// Q's rows behind the last one are made 0, like K's.
  __device__ void load_query(const RowStep& step) {
    const Piece rows = rows_of(step);
    load_rows<QueryPanels, C::head_dim, 0>(
        pipes.q, p.q, p.backward.operands.q, rows, p.backward.lse_2 + statistics_of(step),
        pipes.lse(), is_cut(rows),
        [&](u32 stage) { QueryPanels::clear_rows(stage, rows.count, lane); });
  }
  /// A row that sees no key has no gradients, whatever its dO holds, nor has one behind the last:
  /// their LSE is +inf.
  __device__ void load_dout(const RowStep& step) {
    const Piece rows = rows_of(step);
    const long long statistics = statistics_of(step);
    const RowsInSight<C> sight = rows_in_sight();
    // mutant "CUDA: empty rows in sm90" of emulated: sight.some_see_none(step.row) => false
    const bool clears = is_cut(rows) || C::bias != Number::none || sight.some_see_none(step.row);
    const auto load_piece = [&](auto first) {
      load_rows<DoutPanels, C::head_dim_v, first.value ? 0 : DoutPanels::panels>(
          pipes.dout, p.dout, p.backward.dout, rows, p.backward.delta + statistics, pipes.delta(),
          clears, [&](u32 stage) { clear_empty_rows(stage, statistics); });
    };
    load_piece(Flag<true>());
    if constexpr (Shapes::dout_pieces == 2) load_piece(Flag<false>());
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

  __device__ Piece rows_of(const RowStep& step) const {
    return {first_row + step.row, tile.query_head + step.head,
            C::packed_q ? 0 : tile.place.sequence, tile.q_len - step.row};
  }
  /// Whether the copy engine brings rows that do not count and may be anything.
  __device__ bool is_cut(const Piece& rows) const {
    // mutant "CUDA: rows behind the last one in sm90" of emulated: rows.count < C::rows => false
    return (C::packed_q || C::used_q) && rows.count < C::rows;
  }
  __device__ long long statistics_of(const RowStep& step) const {
    return (tile.query_head + step.head) * p.backward.padded_rows +
           static_cast<long long>(tile.padded_tile) * C::rows + step.row;
  }

  /// Q or dO of a step, of `columns`, from a panel on, and with the first one the rows' statistics.
  template <typename Tile, int columns, int panel, typename Stages, typename Clear>
  __device__ void load_rows(Stages& pipe, const kernel::TensorMap& map, const kernel::View& view,
                            const Piece& rows, const float* statistics, u32 statistics_to,
                            bool clears, const Clear& clear) {
    constexpr int statistic_bytes = panel == 0 ? Shapes::statistic_bytes : 0;
    filler.fill<by_engine>(
        pipe, lane, clears,
        [&](u32 stage, u32 barrier) {
          ptx::mbarrier_arrive_expect(barrier, Tile::bytes + statistic_bytes);
          if constexpr (Tile::columns == columns) {
            Tile::load(stage, &map, rows.first, rows.head, rows.sequence, barrier);
          } else {
            Tile::load_panels(stage, &map, panel, rows.first, rows.head, rows.sequence, barrier);
          }
          if constexpr (panel == 0) {
            ptx::bulk_load(statistics_to, statistics, statistic_bytes, barrier);
          }
        },
        [&](u32 stage) {
          copy<Tile>(stage, view, rows, panel * Tile::panel, columns);
          if (panel == 0 && lane < C::rows / 4) {
            ptx::store_shared(statistics_to + 16 * lane,
                              reinterpret_cast<const uint4*>(statistics)[lane]);
          }
        },
        clear);
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
};

}  // namespace fa::sm90
