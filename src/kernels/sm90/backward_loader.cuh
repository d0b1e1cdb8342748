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

  /// Q of the first step comes first: its place is free before those of K and V.
  __device__ void load_steps() {
    RowStep step = Base::first_step();
    Base::load_query(step);
    load_keys();
#pragma unroll 1
    for (int more = Base::steps() - 1;; --more) {
      if (more == 0) claims.ask();  // while the answer comes, the last step loads
      Base::load_dout(step);
      if (more == 0) break;
      step = Base::after(step);
      Base::load_query(step);
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

  /// The rows of K and V behind the last key are made 0: dS and P are 0 there, but 0 times their
  /// NaN would not be. The copy engine does it where the tensor ends with the keys.
  __device__ void load_keys() {
    const Place& place = tile.place;
    const Piece keys{static_cast<int>(place.rows.begin) + place.row, place.head,
                     C::packed_k ? 0 : place.sequence, place.rows.length - place.row};
    // mutant "CUDA: keys behind the last one in sm90" of emulated: keys.count < C::keys => false
    const bool clears = (C::packed_k || C::used_k) && keys.count < C::keys;
    const auto load_k = [&] {
      load_part<typename Shapes::KeyPanels, C::head_dim>(pipes.k, p.k, p.backward.operands.k, keys,
                                                         clears);
    };
    // The groups release V sooner than K, but need K first.
    if constexpr (C::key_stages > 1) load_k();
    load_part<typename Shapes::ValuePanels, C::head_dim_v>(pipes.v, p.v, p.backward.operands.v,
                                                           keys, clears);
    if constexpr (C::key_stages == 1) load_k();
  }
  template <typename Tile, int columns, typename Stages>
  __device__ void load_part(Stages& pipe, const kernel::TensorMap& map, const kernel::View& view,
                            const Piece& keys, bool clears) {
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
