// The warp that loads: it finds the block's tiles of keys one after the other, tells them to the
// warps that work on them, and copies K of each tile, then Q and LSE of each step, into their
// pipes; V, dO and delta, too, where no other warp does (dout_loader.cuh).
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
      if constexpr (!Shapes::two_loaders) Base::load_dout(step);
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

  __device__ void load_keys() {
    const auto load_k = [&] {
      Base::template load_keys<typename Shapes::KeyPanels, C::head_dim>(
          pipes.k, p.k, p.backward.operands.k, Base::keys_of(0));
    };
    if constexpr (Shapes::two_loaders) {
      load_k();
    } else {
      // The groups release V sooner than K, but need K first.
      if constexpr (C::key_stages > 1) load_k();
      Base::load_values(0);
      if constexpr (C::key_stages == 1) load_k();
    }
  }
};

}  // namespace fa::sm90
