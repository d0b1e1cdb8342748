// The warp of a block that loads for wide heads: it finds the cluster's tiles of keys one after the
// other, as that of the other block does for itself, tells them to its groups, and copies K and V
// of its keys, the panels of the other block's K that its dQ needs, then Q, dO and their
// statistics of each step, into their pipes.
#pragma once

#include "sm90/backward_copies.cuh"
#include "sm90/wide_backward_shapes.cuh"

namespace fa::sm90 {

template <class C>
struct WideLoader : BackwardCopies<C, WideBackwardShapes<C>, WidePipes<C>> {
  using Shapes = WideBackwardShapes<C>;
  using Base = BackwardCopies<C, Shapes, WidePipes<C>>;
  using Base::lane, Base::p, Base::pipes, Base::tile;
  using KeyPanels = Shapes::KeyPanels;
  using PeerPanels = Shapes::PeerPanels;
  using ValuePanels = Shapes::ValuePanels;

  const int rank;  ///< of the block in its cluster

  __device__ WideLoader(const kernel::TiledBackwardParams& params, u32 base, int block_rank)
      : Base(params, base), rank(block_rank) {}

  /// Both blocks of a cluster take the same tiles: by their number, for a block cannot wait for the
  /// other one to tell it.
  __device__ void run() {
    const int clusters = static_cast<int>(gridDim.x) / 2;
    for (int index = static_cast<int>(blockIdx.x) / 2; index < p.tiles; index += clusters) {
      if (!Base::find(index)) continue;
      Base::hand_out(true);
      if (tile.begin < tile.end) load_steps();
    }
    Base::hand_out(false);
  }

  /// Q of the first step comes first: its place is free before those of K and V.
  __device__ void load_steps() {
    RowStep step{tile.begin, 0};
    Base::load_query(step);
    load_keys();
#pragma unroll 1
    for (;;) {
      Base::load_dout(step);
      step = Base::after(step);
      if (step.row >= tile.end) break;
      Base::load_query(step);
    }
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
    const bool clears = (C::packed_k || C::used_k) && least < Shapes::block_keys;
    const int panel = Shapes::first_panel(rank), column = panel * KeyPanels::panel;
    Base::filler.template fill<Base::by_engine>(
        pipes.k, lane, clears,
        [&](u32 stage, u32 barrier) {
          ptx::mbarrier_arrive_expect(barrier, KeyPanels::bytes + PeerPanels::bytes);
          KeyPanels::load(stage, &p.k, own.first, own.head, own.sequence, barrier);
          PeerPanels::load_panels(stage + KeyPanels::bytes, &p.k_panels, panel, peer.first,
                                  peer.head, peer.sequence, barrier);
        },
        [&](u32 stage) {
          Base::template copy<KeyPanels>(stage, from.k, own, 0, C::head_dim);
          Base::template copy<PeerPanels>(stage + KeyPanels::bytes, from.k, peer, column,
                                          C::head_dim);
        },
        [&](u32 stage) {
          KeyPanels::clear_rows(stage, own.count, lane);
          PeerPanels::clear_rows(stage + KeyPanels::bytes, peer.count, lane);
        });
    Base::filler.template fill<Base::by_engine>(
        pipes.v, lane, clears,
        [&](u32 stage, u32 barrier) {
          ptx::mbarrier_arrive_expect(barrier, ValuePanels::bytes);
          ValuePanels::load(stage, &p.v, own.first, own.head, own.sequence, barrier);
        },
        [&](u32 stage) { Base::template copy<ValuePanels>(stage, from.v, own, 0, C::head_dim_v); },
        [&](u32 stage) { ValuePanels::clear_rows(stage, own.count, lane); });
  }
};

}  // namespace fa::sm90
