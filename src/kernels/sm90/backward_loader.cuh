// The warp that loads: it finds the block's tiles of keys one after the other, tells them to the
// warp groups that compute, and copies K and V of each tile, then Q, dO and their statistics of
// each step, into their pipes.
#pragma once

#include "sm90/backward_copies.cuh"
#include "tile/tile_claims.cuh"

namespace fa::sm90 {

template <class C>
struct BackwardLoader : BackwardCopies<C, BackwardShapes<C>, BackwardPipes<C>> {
  using Shapes = BackwardShapes<C>;
  using Base = BackwardCopies<C, Shapes, BackwardPipes<C>>;
  using Base::lane, Base::p, Base::pipes, Base::tile;

  TileClaims<Claims::all> claims;

  __device__ BackwardLoader(const kernel::TiledBackwardParams& params, u32 base)
      : Base(params, base), claims(params.counter, params.launch, params.tiles, lane) {}

  __device__ void run() {
    claims.begin();
    for (;;) {
      const bool more = find_tile();
      Base::hand_out(more);
      if (!more) break;
      if (tile.begin < tile.end) {
        load_steps();
      } else {
        claims.ask();
      }
      claims.next();
    }
  }

  /// In the order in which the places of the tile before become free: with one place for K, K last.
  __device__ void load_steps() {
    RowStep step = Base::first_step();
    int more = Base::steps();
    const auto load_dout = [&] {
      if (--more == 0) claims.ask();  // while the answer comes, the last step loads
      Base::load_dout(step);
    };
    prefetch_keys();
    Base::load_query(step);
    if constexpr (C::key_stages > 1) load_keys();
    load_values();
    load_dout();
    if constexpr (C::key_stages == 1) load_keys();
#pragma unroll 1
    while (more > 0) {
      step = Base::after(step);
      Base::load_query(step);
      load_dout();
    }
  }

  /// The first tile that has keys, from the claimed one on; false where there is none.
  __device__ bool find_tile() {
    while (claims.index < claims.tiles && !Base::find(claims.index)) {
      claims.ask();
      claims.next();
    }
    return claims.index < claims.tiles;
  }

  __device__ Piece keys_in_tensor() const {
    const Place& place = tile.place;
    return {static_cast<int>(place.rows.begin) + place.row, place.head,
            C::packed_k ? 0 : place.sequence, place.rows.length - place.row};
  }
  /// Where the tile before still has the places of K and V.
  __device__ void prefetch_keys() const {
    if constexpr (C::key_stages == 1 && Base::by_engine) {
      if (lane != 0) return;
      const Piece keys = keys_in_tensor();
      Shapes::ValuePanels::prefetch(&p.v, keys.first, keys.head, keys.sequence);
      Shapes::KeyPanels::prefetch(&p.k, keys.first, keys.head, keys.sequence);
    }
  }
  __device__ void load_keys() {
    load_part<typename Shapes::KeyPanels, C::head_dim>(pipes.k, p.k, p.backward.operands.k);
  }
  __device__ void load_values() {
    load_part<typename Shapes::ValuePanels, C::head_dim_v>(pipes.v, p.v, p.backward.operands.v);
  }
  /// The rows of K and V behind the last key are made 0: dS and P are 0 there, but 0 times their
  /// NaN would not be. The copy engine does it where the tensor ends with the keys.
  template <typename Tile, int columns, typename Stages>
  __device__ void load_part(Stages& pipe, const kernel::TensorMap& map, const kernel::View& view) {
    const Piece keys = keys_in_tensor();
    // mutant "CUDA: keys behind the last one in sm90" of emulated: keys.count < C::keys => false
    const bool clears = (C::packed_k || C::used_k) && keys.count < C::keys;
    Base::filler.template fill<Base::by_engine>(
        pipe, lane, clears,
        [&](u32 stage, u32 barrier) {
          ptx::mbarrier_arrive_expect(barrier, Tile::bytes);
          Tile::load(stage, &map, keys.first, keys.head, keys.sequence, barrier);
        },
        [&](u32 stage) { Base::template copy<Tile>(stage, view, keys, 0, columns); },
        [&](u32 stage) { Tile::clear_rows(stage, keys.count, lane); });
  }
};

}  // namespace fa::sm90
