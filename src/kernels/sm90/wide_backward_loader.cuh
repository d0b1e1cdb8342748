// The warp of a block that loads for wide heads: it finds the cluster's tiles of keys one after the
// other, tells them to its groups, and copies K and V of its keys, the panels of the other block's
// K that its dQ needs, then Q, dO and their statistics of each step, into their pipes. The first
// block's claims a tile and tells the second's.
#pragma once

#include "ptx/cluster.cuh"
#include "sm90/backward_copies.cuh"
#include "sm90/wide_backward_shapes.cuh"
#include "tile/tile_claims.cuh"

namespace fa::sm90 {

template <class C>
struct WideLoader : BackwardCopies<C, WideBackwardShapes<C>, WidePipes<C>> {
  using Shapes = WideBackwardShapes<C>;
  using Base = BackwardCopies<C, Shapes, WidePipes<C>>;
  using Base::lane, Base::p, Base::pipes, Base::tile;
  using KeyPanels = Shapes::KeyPanels;
  using PeerPanels = Shapes::PeerPanels;
  using ValuePanels = Shapes::ValuePanels;

  const u32 shared;
  const int rank;  ///< of the block in its cluster
  TileClaims<Claims::all> claims;
  u32 parity = 0;  ///< of the next claim, at the barriers between the blocks

  __device__ WideLoader(const kernel::TiledBackwardParams& params, u32 base, int block_rank)
      : Base(params, base),
        shared(base),
        rank(block_rank),
        claims(params.counter, params.launch, params.tiles, lane, static_cast<int>(gridDim.x) / 2) {
  }

  __device__ void run() {
    if (rank == 0) claims.begin();
    for (int index = share(); index < p.tiles; index = share()) {
      const bool has_keys = Base::find(index);
      if (has_keys) Base::hand_out(true);
      if (has_keys && tile.begin < tile.end) {
        load_steps();
      } else {
        ask();
      }
      if (rank == 0) claims.next();
    }
    Base::hand_out(false);
  }
  __device__ void ask() {
    if (rank == 0) claims.ask();
  }

  /// The number of the cluster's tile, which the first block has claimed.
  __device__ int share() {
    int index = claims.index;
    const u32 there = shared + Shapes::claim_there, at = shared + Shapes::claim;
    if (rank == 0) {
      ptx::mbarrier_wait(shared + Shapes::claim_free, parity ^ 1);
      if (lane == 0) {
        ptx::store_async(ptx::of_block(at, 1), uint4{static_cast<u32>(index), 0, 0, 0},
                         ptx::of_block(there, 1));
      }
    } else {
      if (lane == 0) ptx::mbarrier_arrive_expect(there, 16);
      ptx::mbarrier_wait_cluster(there, parity);
      index = uniform(static_cast<int>(ptx::load_shared(at).x));
      __syncwarp();  // all lanes have read it
      if (lane == 0) {
        ptx::mbarrier_arrive_remote(ptx::of_block(shared + Shapes::claim_free, 0));
      }
    }
    __syncwarp();
    parity ^= 1;
    return index;
  }

  /// Q of the first step comes first: its place is free before those of K and V.
  __device__ void load_steps() {
    RowStep step = Base::first_step();
    Base::load_query(step);
    load_keys();
#pragma unroll 1
    for (int more = Base::steps() - 1;; --more) {
      if (more == 0) ask();  // while the answer comes, the last step loads
      Base::load_dout(step);
      if (more == 0) break;
      step = Base::after(step);
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
