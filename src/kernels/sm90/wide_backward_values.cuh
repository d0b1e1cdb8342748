// The group of a block that has P^T and dV of its 64 keys, lines 10 to 12 of Algorithm 2 of
// FlashAttention-2 (Dao 2023, arXiv:2307.08691). It gives P^T to the other group.
#pragma once

#include "sm90/wide_backward_group.cuh"
#include "tile/rows_in_sight.cuh"

namespace fa::sm90 {

template <class C>
struct WideValues : WideGroup<C, 0> {
  using Base = WideGroup<C, 0>;
  using Base::lane, Base::number, Base::p, Base::pipes, Base::tile;
  using typename Base::Element;
  using typename Base::Operand;
  using typename Base::Scores;
  using typename Base::Shapes;

  const PanelOperand<typename Shapes::KeyPanels, kernel::Major::k> score_k;
  const PanelOperand<typename Shapes::QueryPanels, kernel::Major::k> score_q;
  const PanelOperand<typename Shapes::DoutPanels, kernel::Major::mn> value_dout;
  // Of the pieces of dO.
  static constexpr int first_tiles = Shapes::dout_pieces == 2 ? 16 : Shapes::ValueGrid::n_tiles;
  static constexpr int rest_tiles = Shapes::ValueGrid::n_tiles - first_tiles;
  float dv[1][first_tiles][4];
  float dv_rest[1][rest_tiles == 0 ? 1 : rest_tiles][4];
  const float factor;

  __device__ WideValues(const kernel::BackwardParams& params, u32 base, int rank, int warp)
      : Base(params, base, rank, warp),
        score_k(pipes.k.memory),
        score_q(pipes.q.memory),
        value_dout(pipes.dout.memory),
        factor(Score<C>::factor(params.score)) {}

  /// Inline, for a call would have all products wait.
  __device__ __forceinline__ void run() {
    while (take_tile(pipes.tiles, lane, tile)) {
      clear(dv);
      clear(dv_rest);
      if (tile.begin < tile.end) walk();
      Base::template store<0, C::head_dim_v>(dv, p.dv, value_scale<C>(p));
      if constexpr (rest_tiles > 0) {
        Base::template store<8 * first_tiles, C::head_dim_v>(dv_rest, p.dv, value_scale<C>(p));
      }
    }
  }

  /// Over the rows that see the keys (line 8).
  __device__ __forceinline__ void walk() {
    Place at = Base::first_step();
    const RowsInSight<C> sight(p.window, tile.q_len, tile.place.rows.length, tile.place.row);
    Dropout<> dropout(p.dropout, p.heads.query, at);
    Score<C> score(p.score, at, tile.place.rows.length);
    Scores s;
    pipes.k.wait_until_full();
    begin_scores(s);
    int left = Base::steps();
    const auto one_step = [&](auto may_mask, auto first, auto more) {
      step<may_mask.value, first.value, more.value>(s, at, dropout, score, sight);
      Base::advance(at);
      if (p.part_heads > 1) {
        dropout = Dropout<>(p.dropout, p.heads.query, at);
        score = Score<C>(p.score, at, tile.place.rows.length);
      }
      --left;
    };
    // All but the last, to those that begin at row `end`.
    const auto steps_to = [&](int end, auto may_mask) {
      const int rows = (end - at.row) / C::rows * p.part_heads - (at.head - tile.query_head);
#pragma unroll 1
      for (int n = min(rows, left - 1); n > 0; --n) one_step(may_mask, Flag<false>(), Flag<true>());
    };
    constexpr Flag<!C::all_seen> masks;
    if (left > 1) {
      one_step(masks, Flag<true>(), Flag<true>());
      if constexpr (C::all_seen) {
#pragma unroll 1
        while (left > 1) one_step(Flag<false>(), Flag<false>(), Flag<true>());
      } else {
        steps_to(tile.full_begin, Flag<true>());
        steps_to(tile.full_end, Flag<false>());
        if constexpr (C::window_left) steps_to(tile.end, Flag<true>());
      }
      one_step(masks, Flag<false>(), Flag<false>());
    } else {
      one_step(masks, Flag<true>(), Flag<false>());
    }
    Base::end_queries();
    pipes.k.release(lane);
  }

  /// Begins S^T = K Q^T of the next step (line 10).
  __device__ void begin_scores(Scores& s) {
    pipes.q.wait_until_full();
    ptx::wgmma_fence(s[0]);
    begin_product<number, pad16(C::head_dim) / 16>(s[0], score_k.in_loop(), 0, score_q,
                                                   pipes.q.offset);
  }

  /// The work on one tile of rows of one head, whose S^T was begun a step ago, and dQ of the step
  /// before. `first`: of the tile. `more`: another step follows.
  template <bool may_mask, bool first, bool more>
  __device__ void step(Scores& s, const Place& at, const Dropout<>& dropout, const Score<C>& score,
                       const RowsInSight<C>& sight) {
    const long long move = Base::move_to(at);
    const ScorePlace<Shapes> place = Base::place_of(at);
    ptx::wgmma_wait<0>(s[0]);
    Scores slopes;
    form_probabilities<Shapes>(s, slopes, score, factor, place, pipes.lse());
    if constexpr (may_mask) hide_unseen<Shapes>(s, sight, place);
    Operand given;  // P^T, times the scores' slopes
    if constexpr (Score<C>::has_slope) {
      multiply_by(slopes, s);
      given = as_left<Element>(slopes);
    } else {
      given = as_left<Element>(s);
    }
    if constexpr (C::dropout) {
      Dropped<Shapes> dropped = {};
      dropout.template apply<1, C::rows / 8, true>(
          at.row, Base::first_key(), lane, [&](int m, int n, int e) { dropped[m][n] |= 1u << e; });
      drop<Shapes>(s, dropped);
    }
    const Operand kept = C::dropout || Score<C>::has_slope ? as_left<Element>(s) : given;
    give(given);
    constexpr int rest = Shapes::dout_pieces - 1;
    typename Base::Queries dq;
    pipes.dout.wait_until_full();
    ptx::wgmma_fence(dv[0]);
    begin_product<number>(dv[0], kept, value_dout, pipes.dout.offset);
    if constexpr (!first) Base::begin_queries(dq);
    if constexpr (rest > 0) {
      auto piece = pipes.dout;
      piece.next();
      piece.wait_until_full();
      ptx::wgmma_fence(dv_rest[0]);
      begin_product<number>(dv_rest[0], kept, value_dout, piece.offset);
    }
    __syncwarp();  // all lanes have read LSE
    pipes.q.release(lane);
    if constexpr (more) begin_scores(s);
    ptx::wgmma_wait<2 * !first + rest + more>(dv[0]);
    pipes.dout.release(lane);
    if constexpr (!first) {
      ptx::wgmma_wait<rest + more>(dq[0]);
      Base::free_scores();
      Base::add_queries(dq);
      Base::move_sum(at, move);
    }
    if constexpr (rest > 0) {
      ptx::wgmma_wait<more>(dv_rest[0]);
      pipes.dout.release(lane);
    }
  }

  /// Puts P^T into shared memory, for the lane of the same number of the other group's warp.
  __device__ void give(const Operand& x) const {
    ptx::mbarrier_wait(Base::shared + Shapes::scores_free + 8 * Base::slot, Base::parity ^ 1);
#pragma unroll
    for (int i = 0; i < C::rows / 16; ++i) {
      const u32(&a)[4] = x.slice[i][0];
      ptx::store_shared(Base::warp_scores() + 512 * i + 16 * lane, uint4{a[0], a[1], a[2], a[3]});
    }
    ptx::barrier_arrive<64>(Base::pair_barrier());
  }
};

}  // namespace fa::sm90
