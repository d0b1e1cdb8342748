// What the warps of the backward kernel for wide heads agree on: its shared memory, and who makes
// which columns of dQ.
#pragma once

#include "sm90/backward_shapes.cuh"

namespace fa::sm90 {

template <class C>
struct WideBackwardShapes : BackwardSums<C> {
  static constexpr int block_keys = 64;  ///< of the tile's
  static_assert(C::keys == 2 * block_keys && C::rows == 64);
  static_assert(!C::rotates || !C::deterministic, "its turns pass in the order of rows");
  static_assert(!C::clears_sums || !C::deterministic, "a counter has one use");
  static constexpr int loader_registers = 24, group_registers = 240;

  /// dS^T or P^T of a step, as a warp has it.
  using Scores = float[1][C::rows / 8][4];
  /// The same as the operand A of a product over rows.
  using Operand = KeptSlices<C::rows / 16, 1>;

  using QueryPanels = PanelTile<C::rows, C::head_dim>;
  /// dO comes in pieces of two panels, so that of three of them one is free.
  static constexpr int dout_pieces = C::head_dim_v > 128 ? 2 : 1;
  static constexpr int piece_columns = dout_pieces == 2 ? 128 : C::head_dim_v;
  using DoutPanels = PanelTile<C::rows, piece_columns>;
  using KeyPanels = PanelTile<block_keys, C::head_dim>;
  using ValuePanels = PanelTile<block_keys, C::head_dim_v>;
  using ScorePanels = PanelTile<block_keys, C::rows>;        ///< dS^T
  static constexpr int warp_bytes = ScorePanels::bytes / 4;  ///< a warp's keys of these

  // dQ: a block makes half of the columns, and each of its groups whole ones of one panel.
  static constexpr int half = C::depth / 2;
  /// Of the other block's K, the panels in which the half lies.
  using PeerPanels = PanelTile<block_keys, (half + 63) / 64 * 64>;
  static __device__ int first_panel(int rank) { return rank * half / KeyPanels::panel; }
  static constexpr int columns_of(int group) {
    constexpr int first = half == 96 ? 64 : half / 2;
    return group == 0 ? first : half - first;
  }
  /// A group's first column. Where a block's half begins within a panel, the second group has the
  /// rest of that panel.
  static __device__ int first_column(int rank, int group) {
    const bool turned = half == 96 && rank == 1;
    return rank * half + ((group == 1) != turned ? columns_of(1 - group) : 0);
  }

  static_assert(C::dq_parts == 4, "of the columns: two groups in each of two blocks");

  static constexpr int statistic_bytes = 4 * C::rows;  ///< LSE or delta of a step
  using KeyPipe = Pipe<1, KeyPanels::bytes + PeerPanels::bytes>;
  using ValuePipe = Pipe<1, ValuePanels::bytes>;
  using QueryPipe = Pipe<2, QueryPanels::bytes>;
  using DoutPipe = Pipe<1 + dout_pieces, DoutPanels::bytes>;
  using TilePipe = Pipe<2, 64>;  ///< of KeysInHand

  // Shared memory: K, with the other block's panels, V, stages of Q and dO, of two steps P^T and
  // then dS^T, and the other block's dS^T, statistics of the stages, the tile in hand, all
  // barriers.
  static constexpr int value_begin = KeyPipe::bytes;
  static constexpr int query_begin = value_begin + ValuePipe::bytes;
  static constexpr int dout_begin = query_begin + QueryPipe::bytes;
  static constexpr int scores_begin = dout_begin + DoutPipe::bytes;
  static constexpr int peer_scores_begin = scores_begin + 2 * ScorePanels::bytes;
  static constexpr int lse_begin = peer_scores_begin + 2 * ScorePanels::bytes;
  static constexpr int delta_begin = lse_begin + QueryPipe::stages * statistic_bytes;
  static constexpr int tile_begin = delta_begin + DoutPipe::stages * statistic_bytes;
  static constexpr int barriers_begin = tile_begin + TilePipe::bytes;
  static constexpr int landed = barriers_begin + KeyPipe::barrier_bytes + ValuePipe::barrier_bytes +
                                QueryPipe::barrier_bytes + DoutPipe::barrier_bytes +
                                TilePipe::barrier_bytes;
  // Of two steps each:
  static constexpr int gradients_there = landed + 8;  ///< dS^T of both blocks is
  static constexpr int scores_free = landed + 24;     ///< of dS^T, in both blocks
  static constexpr int claim_there = landed + 40;     ///< the next tile, in the second block
  static constexpr int claim_free = landed + 48;      ///< its place, which the first one writes
  static constexpr int dout_landed = landed + 56;     ///< as `landed`, of V and dO
  static constexpr int claim = landed + 64;
  static_assert(landed % 16 == 0 && C::shared_bytes == landed + 80, "as the plan says");
};

/// One warp's ends of all pipes.
template <class C>
struct WidePipes {
  using Shapes = WideBackwardShapes<C>;
  u32 shared;
  Shapes::KeyPipe k;
  Shapes::ValuePipe v;
  Shapes::QueryPipe q;
  Shapes::DoutPipe dout;
  Shapes::TilePipe tiles;

  explicit __device__ WidePipes(u32 base)
      : shared(base),
        k(base, base + Shapes::barriers_begin),
        v(base + Shapes::value_begin, k.barriers + Shapes::KeyPipe::barrier_bytes),
        q(base + Shapes::query_begin, v.barriers + Shapes::ValuePipe::barrier_bytes),
        dout(base + Shapes::dout_begin, q.barriers + Shapes::QueryPipe::barrier_bytes),
        tiles(base + Shapes::tile_begin, dout.barriers + Shapes::DoutPipe::barrier_bytes) {}

  __device__ void init() const {
    constexpr int group = 4, both = 8;  // warps
    k.init(both);
    v.init(group);
    q.init(both);
    dout.init(both);
    constexpr int second_loader = 1, clearing = C::clears_sums ? 2 : 0;  // clearer and watcher
    tiles.init(both + second_loader + clearing);
    ptx::mbarrier_init(shared + Shapes::landed, 1);
    ptx::mbarrier_init(shared + Shapes::dout_landed, 1);
    for (int i = 0; i < 2; ++i) {
      ptx::mbarrier_init(shared + Shapes::gradients_there + 8 * i, group + C::clears_sums);
      ptx::mbarrier_init(shared + Shapes::scores_free + 8 * i, 2 * both);
    }
    ptx::mbarrier_init(shared + Shapes::claim_there, 1);
    ptx::mbarrier_init(shared + Shapes::claim_free, 1);
  }

  /// The statistics of the stages in hand. A stage has 16 bytes of barriers.
  __device__ u32 lse() const {
    return shared + Shapes::lse_begin + q.barrier / 16 * Shapes::statistic_bytes;
  }
  __device__ u32 delta() const {
    return shared + Shapes::delta_begin + dout.barrier / 16 * Shapes::statistic_bytes;
  }
};

}  // namespace fa::sm90
