// What the warps of the forward kernel agree on: its Config, its shared memory, and the tile of
// work that they have in hand.
#pragma once

#include "common/config.h"
#include "common/padding.h"
#include "common/params.h"
#include "ptx/shared.cuh"
#include "tile/bias.cuh"
#include "tile/mask.cuh"
#include "tile/pages.cuh"
#include "tile/panels.cuh"
#include "tile/pipe.cuh"
#include "tile/place.cuh"
#include "tile/rows.cuh"
#include "tile/shares.cuh"
#include "tile/steps.cuh"

namespace fa::sm90 {

using namespace fa::tile;

/// How the plan cuts the kernel (plan/cuda/sm90/forward_tiles.hpp says what each number does).
struct ForwardConfig : kernel::ProblemConfig {
  static constexpr bool side_by_side = false;  ///< a tile has all heads that share their keys
  static constexpr int query_stages = 1;
  static constexpr bool turns = true;
  static constexpr bool staged_out = false;
  /// ALiBi is all that is added to the product, and no row sees beyond its diagonal key.
  static constexpr bool alibi_rises = false;
  static constexpr int bias_stages = 0;        ///< 0: each thread reads the bias from memory
  static constexpr bool bias_per_row = false;  ///< else all rows share one
  static constexpr bool split = false;         ///< the keys are shared out between blocks
  static constexpr bool shares = false;        ///< blocks get equal shares of all steps
  static constexpr bool claims = false;        ///< a counter hands the tiles out
  /// Of a page, that a copy brings: as many as a step has, or a part of these. 0: the loader's own
  /// loads bring them.
  static constexpr int page_rows = 0;
  static constexpr int steps_ahead = 0;  ///< steps of a tile yet to come when the next is found
};

using kernel::pad16;

template <class C>
struct ForwardShapes {
  static constexpr int group_rows = 64;
  static constexpr int rows = group_rows * C::groups;
  static_assert(C::groups >= 1 && C::groups <= 3 && (C::groups > 1 || !C::turns));
  static_assert(!C::side_by_side ||
                    (C::alignment == 16 && !C::alibi && C::bias == kernel::Number::none &&
                     !C::dropout && !C::staged_out),
                "these are of one head");
  static_assert(C::groups == 1 || C::loader_registers + C::groups * C::group_registers ==
                                      (C::groups == 3 ? 4 * 128 : 3 * 168),
                "all registers of the block, of which each thread begins with a multiple of 8");
  static_assert(!C::shares || (C::claims && !C::split && !C::staged_out && C::groups < 3));
  static_assert(C::key_stages >= 1 && C::value_stages >= 1 && C::query_stages <= 2);
  static constexpr int threads = 128 * (1 + C::groups);  ///< the loader's group comes first
  static constexpr int depth = pad16(C::head_dim);       ///< of Q K^T
  static constexpr int width = pad16(C::head_dim_v);     ///< of O
  using QueryTile = PanelTile<rows, C::head_dim>;
  using KeyTile = PanelTile<C::keys, C::head_dim>;
  using ValueTile = PanelTile<C::keys, C::head_dim_v>;
  using QueryPipe = Pipe<C::query_stages, QueryTile::bytes>;
  using KeyPipe = Pipe<C::key_stages, KeyTile::bytes>;
  using ValuePipe = Pipe<C::value_stages, ValueTile::bytes>;
  using BiasTile = PanelTile<C::bias_per_row ? rows : 8, bias_columns<C>>;
  using BiasPipe = Pipe<C::bias_stages, BiasTile::bytes>;
  static_assert(C::bias_stages == 0 ||
                (C::alignment == 16 && kernel::whole_panels(bias_columns<C>)));
  using TilePipe = Pipe<2, 96>;                  ///< of TileInHand
  using OutTile = PanelTile<16, C::head_dim_v>;  ///< a warp's rows of O on their way to memory

  // Shared memory: stages of Q, K, V and the bias, rows of O, the tile in hand, all barriers.
  static constexpr int key_begin = QueryPipe::bytes;
  static constexpr int value_begin = key_begin + KeyPipe::bytes;
  static constexpr int bias_begin = value_begin + ValuePipe::bytes;
  static constexpr int out_begin = bias_begin + BiasPipe::bytes;
  static constexpr int tile_begin =
      out_begin + (C::staged_out ? 4 * C::groups * OutTile::bytes : 0);
  static constexpr int barriers_begin = tile_begin + TilePipe::bytes;
  static constexpr int landed = barriers_begin + QueryPipe::barrier_bytes + KeyPipe::barrier_bytes +
                                ValuePipe::barrier_bytes + BiasPipe::barrier_bytes +
                                TilePipe::barrier_bytes;
  static_assert(C::shared_bytes == landed + 16, "as the plan says");
};

/// One warp's ends of all pipes.
template <class C>
struct ForwardPipes {
  using Shapes = ForwardShapes<C>;
  Shapes::QueryPipe q;
  Shapes::KeyPipe k;
  Shapes::ValuePipe v;
  Shapes::BiasPipe bias;
  Shapes::TilePipe tiles;

  explicit __device__ ForwardPipes(u32 shared)
      : q(shared, shared + Shapes::barriers_begin),
        k(shared + Shapes::key_begin, q.barriers + Shapes::QueryPipe::barrier_bytes),
        v(shared + Shapes::value_begin, k.barriers + Shapes::KeyPipe::barrier_bytes),
        bias(shared + Shapes::bias_begin, v.barriers + Shapes::ValuePipe::barrier_bytes),
        tiles(shared + Shapes::tile_begin, bias.barriers + Shapes::BiasPipe::barrier_bytes) {}

  __device__ void init() const {
    constexpr int users = 4 * C::groups;
    q.init(users);
    k.init(users);
    v.init(users);
    bias.init(users);
    tiles.init(users);
  }
};

/// The rows that the block works on, and the steps [begin, end) over the keys that they see.
struct TileInHand {
  Place place;
  int k_len;
  int begin, end;
  int split;
  Sharers sharers;  ///< of the tile's keys
};

}  // namespace fa::sm90
