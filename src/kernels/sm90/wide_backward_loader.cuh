// The warp of a block that loads K and Q for wide heads: it finds the cluster's tiles of keys one
// after the other, tells them to the block's other warps, and copies K of its keys, the panels of
// the other block's K that its dQ needs, then Q and LSE of each step, into their pipes. The first
// block's claims a tile and tells the second's. dout_loader.cuh has the rest.
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

  /// Q of the first step comes first: its place is free before that of K.
  __device__ void load_steps() {
    RowStep step = Base::first_step();
    Base::load_query(step);
    load_keys();
#pragma unroll 1
    for (int more = Base::steps() - 1; more > 0; --more) {
      step = Base::after(step);
      Base::load_query(step);
    }
    ask();
  }

  __device__ void load_keys() {
    const kernel::View& from = p.backward.operands.k;
    const Piece own = Base::keys_of(rank), peer = Base::keys_of(rank ^ 1);
    const int panel = Shapes::first_panel(rank), column = panel * KeyPanels::panel;
    Base::filler.template fill<Base::by_engine>(
        pipes.k, lane, Base::is_cut_off(own) || Base::is_cut_off(peer),
        [&](u32 stage, u32 barrier) {
          ptx::mbarrier_arrive_expect(barrier, KeyPanels::bytes + PeerPanels::bytes);
          KeyPanels::load(stage, &p.k, own.first, own.head, own.sequence, barrier);
          PeerPanels::load_panels(stage + KeyPanels::bytes, &p.k_panels, panel, peer.first,
                                  peer.head, peer.sequence, barrier);
        },
        [&](u32 stage) {
          Base::template copy<KeyPanels>(stage, from, own, 0, C::head_dim);
          Base::template copy<PeerPanels>(stage + KeyPanels::bytes, from, peer, column,
                                          C::head_dim);
        },
        [&](u32 stage) {
          KeyPanels::clear_rows(stage, own.count, lane);
          PeerPanels::clear_rows(stage + KeyPanels::bytes, peer.count, lane);
        });
  }
};

}  // namespace fa::sm90
