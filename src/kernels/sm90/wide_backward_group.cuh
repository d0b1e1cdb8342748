// What both groups of the backward kernel for wide heads do: they take tiles, walk over the rows
// that see the keys, make columns of dQ and store their dK or dV.
#pragma once

#include "ptx/barrier.cuh"
#include "ptx/cluster.cuh"
#include "ptx/turn.cuh"
#include "sm90/wide_backward_shapes.cuh"
#include "tile/dropout.cuh"
#include "tile/form_gradients.cuh"
#include "tile/group_product.cuh"
#include "tile/rows.cuh"
#include "tile/store_fragment.cuh"
#include "tile/uniform.cuh"

namespace fa::sm90 {

/// group: 0 has P^T and dV, 1 has dS^T and dK.
template <class C, int group>
struct WideGroup {
  using Shapes = WideBackwardShapes<C>;
  using Element = Shapes::Element;
  using Scores = Shapes::Scores;
  using Operand = Shapes::Operand;
  using KeyPanels = Shapes::KeyPanels;
  using PeerPanels = Shapes::PeerPanels;
  using ScorePanels = Shapes::ScorePanels;
  static constexpr kernel::Number number = C::element;
  static constexpr int query_tiles = Shapes::columns_of(group) / 8;

  const kernel::BackwardParams& p;
  const int rank;       ///< of the block in its cluster
  const int warp;       ///< of the group's four
  const int keys_warp;  ///< of the eight that share the tile's keys
  const int lane = threadIdx.x % 32;
  WidePipes<C> pipes;
  const u32 shared;
  const u32 first_scores;  ///< P^T and then dS^T of the warp's keys in shared memory, first slot
  // dQ comes a step late, so dS^T of two steps is in use, in two slots with barriers of their own.
  u32 slot = 0;             ///< of this step: 0 or 1
  u32 parity = 0;           ///< of this step, at the slot's barriers
  float* dq_sum = nullptr;  ///< of the group's dQ of the step before
  // In order: the counter of those rows and this tile's number there, and of the rows to which the
  // group added last.
  int* dq_counter = nullptr;
  int dq_turn = 0;
  int* added = nullptr;

  const PanelOperand<ScorePanels, kernel::Major::mn> query_ds, query_peer_ds;
  const PanelOperand<KeyPanels, kernel::Major::mn> query_k;
  const PanelOperand<PeerPanels, kernel::Major::mn> query_peer_k;

  KeysInHand tile;
  float ds_bits = 0;  ///< dS is multiplied by 2 to their power, so that it fits its format

  __device__ WideGroup(const kernel::BackwardParams& params, u32 base, int block_rank,
                       int group_warp)
      : p(params),
        rank(block_rank),
        warp(group_warp),
        keys_warp(4 * block_rank + group_warp),
        pipes(base),
        shared(base),
        first_scores(base + Shapes::scores_begin + group_warp * Shapes::warp_bytes),
        query_ds(base + Shapes::scores_begin),
        query_peer_ds(base + Shapes::peer_scores_begin),
        query_k(pipes.k.memory + column_in<KeyPanels>(0)),
        query_peer_k(pipes.k.memory + KeyPanels::bytes +
                     column_in<PeerPanels>(Shapes::first_panel(block_rank))) {}

  __device__ u32 warp_scores() const { return first_scores + slot * ScorePanels::bytes; }

  /// The barrier of the warp and that of the other group with the same keys, at which P^T passes:
  /// one a slot, for P^T of two steps may be given before the first is taken.
  __device__ int pair_barrier() const { return 1 + warp + 4 * static_cast<int>(slot); }

  /// The place of the group's first column of dQ in a tile of K whose first panel is this.
  template <typename Tile>
  __device__ int column_in(int first_panel) const {
    const int column = Shapes::first_column(rank, group) - first_panel * Tile::panel;
    return column / Tile::panel * Tile::panel_bytes + column % Tile::panel * 2;
  }

  /// The place of the tile's first step. It sets ds_bits and dq_sum.
  __device__ Place first_step() {
    const Place at{
        tile.place.sequence, tile.query_head, start_of<C>(tile), {0, tile.q_len, tile.q_len}};
    if constexpr (Element::scales_gradients) ds_bits = gradient_bits<C>(p, tile.place, at);
    const long long row = padded_row<C>(p, tile, at);
    const int column = Shapes::first_column(rank, group) - rank * Shapes::half;
    dq_sum = Shapes::QuerySum::part_of(p.dq_sum + row * Shapes::depth, keys_warp, 0) +
             column / 8 * 128 + sum_index(lane, 0);
    find_turn(at);
    return at;
  }
  __device__ void find_turn(const Place& at) {
    if constexpr (C::deterministic) {
      dq_counter =
          p.dq_turns + padded_row<C>(p, tile, at) / C::rows * C::dq_parts + rank * 2 + group;
      const RowsInSight<C> sight(p.window, tile.q_len, tile.place.rows.length, tile.place.row);
      dq_turn = sight.turn_of(at.row);
    }
  }
  __device__ int steps() const { return steps_of<C>(tile, p.part_heads); }
  /// Goes to the next step. The heads of a tile of rows follow each other, as in sm80.
  __device__ void advance(Place& at) {
    ++at.head;
    const int wraps = uniform(at.head == tile.query_head + p.part_heads ? 1 : 0);
    at.head -= wraps * p.part_heads;
    at.row = wrapped<C>(tile, at.row + wraps * C::rows);
    slot = uniform(slot ^ 1);
    parity ^= slot ^ 1;
  }
  /// From the sums of the step before to those of the step at `at`. A step forms it before it adds
  /// to sums: later it would wait for registers that the additions still read.
  __device__ long long move_to(const Place& at) const {
    return uniform(sum_move<C>(p, tile, at.row, at.head > tile.query_head));
  }
  /// Moves dq_sum, and the turn, to the step at `at`.
  __device__ void move_sum(const Place& at, long long move) {
    find_turn(at);
    dq_sum += move;
  }
  __device__ ScorePlace<Shapes> place_of(const Place& at) const {
    return {at.row, tile.place.row, keys_warp, lane};
  }
  __device__ int first_key() const { return tile.place.row + Shapes::ScoreGrid::row(keys_warp); }

  /// The group's columns of dQ of the step before, in its slot.
  using Queries = float[1][query_tiles][4];
  __device__ u32 slot_before() const { return slot ^ 1; }

  /// Begins the group's columns of dQ = dS K over the keys of both blocks (line 15), of the step
  /// before: two groups of products.
  __device__ void begin_queries(Queries& dq) {
    // Its slot is the other one, in which every second step turns the parity.
    ptx::mbarrier_wait(shared + Shapes::gradients_there + 8 * slot_before(), parity ^ slot ^ 1);
    ptx::wgmma_fence(dq[0]);
    constexpr int slices = Shapes::block_keys / 16;
    const u32 place = slot_before() * ScorePanels::bytes;
    begin_product<number, slices>(dq[0], query_ds.in_loop(), place, query_k.in_loop(), 0);
    begin_product<number, slices, true>(dq[0], query_peer_ds.in_loop(), place,
                                        query_peer_k.in_loop(), 0);
  }
  /// Both blocks may write P^T, and send dS^T, of the next step in the slot of the step before: the
  /// products for its dQ have ended.
  __device__ void free_scores() const {
    if (lane < 2) {
      ptx::mbarrier_arrive_remote(
          ptx::of_block(shared + Shapes::scores_free + 8 * slot_before(), lane));
    }
  }
  /// Adds these columns to dQ.
  __device__ void add_queries(Queries& dq) {
    if constexpr (Element::scales_gradients) scale_by(dq, power_of_2<Element>(-ds_bits));
    if constexpr (C::deterministic) {
      pass_turn();
      ptx::wait_for_turn(dq_counter, dq_turn);
      __syncwarp();
      added = dq_counter;
    }
    add_fragment(dq_sum, dq, 0);
  }
  /// Lets the next cluster add to the rows to which the group has added last, when all its warps
  /// have.
  __device__ void pass_turn() {
    ptx::barrier_sync<128>(9 + group);
    if (warp == 0 && lane == 0 && added != nullptr) ptx::pass_turn(added);
    added = nullptr;
  }
  /// dQ of the tile's last step.
  __device__ void end_queries() {
    Queries dq;
    begin_queries(dq);
    ptx::wgmma_wait<0>(dq[0]);
    free_scores();
    add_queries(dq);
    if constexpr (C::deterministic) pass_turn();
  }

  /// Columns of dK or dV of the tile, of head_dim or head_dim_v `columns` (line 18). A cluster has
  /// all heads that share the keys.
  template <int first_column, int columns, int n_tiles>
  __device__ void store(const float (&x)[1][n_tiles][4], const kernel::View& view,
                        float scale) const {
    const int first = tile.place.row + 16 * keys_warp;
    constexpr int rest = columns - first_column;
    constexpr int count = rest < 8 * n_tiles ? rest : 8 * n_tiles;
    store_fragment<count, C::alignment>(as_left<Element>(x, scale), lane, [&](int i) -> char* {
      if (first + i >= tile.place.rows.extent) return nullptr;
      return const_cast<char*>(row_at(view, tile.place, first + i)) + 2 * first_column;
    });
  }
};

}  // namespace fa::sm90
