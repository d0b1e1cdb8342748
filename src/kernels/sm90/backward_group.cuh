// A warp group that computes: 64 keys of each of the block's tiles, Algorithm 2 of FlashAttention-2
// (Dao 2023, arXiv:2307.08691).
#pragma once

#include "ptx/barrier.cuh"
#include "ptx/proxy.cuh"
#include "ptx/turn.cuh"
#include "sm90/backward_shapes.cuh"
#include "tile/bias_gradient.cuh"
#include "tile/dropout.cuh"
#include "tile/form_gradients.cuh"
#include "tile/group_product.cuh"
#include "tile/rows.cuh"
#include "tile/rows_in_sight.cuh"
#include "tile/store.cuh"
#include "tile/store_fragment.cuh"
#include "tile/uniform.cuh"

namespace fa::sm90 {

template <class C>
struct BackwardGroup {
  using Shapes = BackwardShapes<C>;
  using Element = Shapes::Element;
  using Scores = Shapes::Scores;
  using Operand = Shapes::Operand;
  using ScorePanels = Shapes::ScorePanels;
  static constexpr kernel::Number number = C::element;
  static constexpr int dk_tiles = Shapes::KeyGrid::n_tiles;
  static constexpr int dv_tiles = Shapes::ValueGrid::n_tiles;
  static constexpr int dq_tiles = Shapes::QueryGrid::n_tiles;

  /// dS is formed of P as it is, where registers are left for it: of P rounded it has to be
  /// unpacked.
  static constexpr bool keeps_p = C::rows == 64 && !C::dropout && !Score<C>::has_slope;
  /// Whether dK and dV go out by whole lines, and dV while the last dQ is formed. With 64 rows a
  /// step, and without a mask, that was no faster; beside other options registers are missing.
  static constexpr bool stores_lines =
      C::rows == 128 && !C::all_seen && Score<C>::none && !C::dropout && !Element::scales_gradients;
  /// LSE is loaded while S^T is under way, where registers are left for it.
  static constexpr bool loads_early = C::rows == 64;

  const kernel::BackwardParams& p;
  const int warp;  ///< of the warps that compute
  const int lane = threadIdx.x % 32;
  BackwardPipes<C> pipes;
  u32 scores;            ///< dS^T of two steps in shared memory
  u32 scores_turn = 0;   ///< the place of the last that was put, in bytes from the first
  u32 parity = 0;        ///< of the step before, at gradients_there
  Shapes::SumPipe sums;  ///< where dQ goes to the adder
  const u32 gradients_there;

  const PanelOperand<typename Shapes::KeyPanels, kernel::Major::k> score_k;
  const PanelOperand<typename Shapes::QueryPanels, kernel::Major::k> score_q;
  const PanelOperand<typename Shapes::ValuePanels, kernel::Major::k> score_v;
  const PanelOperand<typename Shapes::DoutPanels, kernel::Major::k> score_dout;
  const PanelOperand<typename Shapes::DoutPanels, kernel::Major::mn> value_dout;
  const PanelOperand<typename Shapes::QueryPanels, kernel::Major::mn> key_q;
  const PanelOperand<ScorePanels, kernel::Major::mn> query_ds;
  const PanelOperand<typename Shapes::KeyPanels, kernel::Major::mn> query_k;

  KeysInHand tile;
  u32 key_stage = 0, value_stage = 0;  ///< of K and V, in bytes from the first
  float dk[1][dk_tiles][4];
  float dv[1][dv_tiles][4];
  float ds_bits = 0;  ///< dS is multiplied by 2 to their power, so that it fits its format
  const float factor;

  __device__ BackwardGroup(const kernel::BackwardParams& params, u32 base, int computing_warp)
      : p(params),
        warp(computing_warp),
        pipes(base),
        scores(base + Shapes::scores_begin),
        sums(Shapes::sums_of(base, computing_warp / 4)),
        gradients_there(base + Shapes::gradients_there),
        score_k(pipes.k.memory + first_key() * Shapes::KeyPanels::row_bytes),
        score_q(pipes.q.memory),
        score_v(pipes.v.memory + first_key() * Shapes::ValuePanels::row_bytes),
        score_dout(pipes.dout.memory),
        value_dout(pipes.dout.memory),
        key_q(pipes.q.memory),
        query_ds(scores + panel_of(Shapes::QueryGrid::row(warp)) * ScorePanels::panel_bytes),
        query_k(pipes.k.memory +
                panel_of(Shapes::QueryGrid::column(warp)) * Shapes::KeyPanels::panel_bytes +
                Shapes::QueryGrid::column(warp) % ScorePanels::panel * 2),
        factor(Score<C>::factor(params.score)) {}

  /// The group's first key among the block's.
  __device__ int first_key() const { return warp / 4 * Shapes::group_keys; }
  static __device__ int panel_of(int column) { return column / ScorePanels::panel; }

  /// Inline, for a call would have all products wait.
  __device__ __forceinline__ void run() {
    while (take_tile(pipes.tiles, lane, tile)) {
      clear(dk);
      clear(dv);
      const bool walks = tile.begin < tile.end;
      if (walks) walk();
      store_keys();
      if (!stores_lines || !walks) store_values();
    }
  }

  /// Over the rows that see the keys (line 8 of Algorithm 2).
  __device__ __forceinline__ void walk() {
    const RowsInSight<C> sight(p.window, tile.q_len, tile.place.rows.length, tile.place.row);
    Place at{tile.place.sequence, tile.query_head, 0, {0, tile.q_len, tile.q_len}};
    if constexpr (Element::scales_gradients) ds_bits = gradient_bits<C>(p, tile.place, at);
    Dropout<> dropout(p.dropout, p.heads.query, at);
    Score<C> score(p.score, at, tile.place.rows.length);
    pipes.k.wait_until_full();
    pipes.v.wait_until_full();
    if constexpr (C::key_stages > 1) key_stage = uniform(pipes.k.offset);
    if constexpr (C::value_stages > 1) value_stage = uniform(pipes.v.offset);
    at.row = start_of<C>(tile);
    int head = 0;
    const auto one_step = [&](auto may_mask, auto first) {
      at.head = tile.query_head + head;
      if (p.part_heads > 1) {
        dropout = Dropout<>(p.dropout, p.heads.query, at);
        score = Score<C>(p.score, at, tile.place.rows.length);
      }
      step<may_mask.value, first.value>(at, dropout, score, sight);
      ++head;
      const int wraps = uniform(head == p.part_heads ? 1 : 0);
      head = wraps ? 0 : head;
      at.row = wrapped<C>(tile, at.row + wraps * C::rows);
    };
    // They are counted, so that steps that need not know their row do not.
    const auto steps = [&](int left, auto may_mask) {
#pragma unroll 1
      for (; left > 0; --left) one_step(may_mask, Flag<false>());
    };
    const auto steps_to = [&](int end, auto may_mask) {
      steps((end - at.row) / C::rows * p.part_heads - head, may_mask);
    };
    one_step(Flag<!C::all_seen>(), Flag<true>());
    if constexpr (C::all_seen) {
      steps(steps_of<C>(tile, p.part_heads) - 1, Flag<false>());
    } else {
      steps_to(tile.full_begin, Flag<true>());
      steps_to(tile.full_end, Flag<false>());
    }
    if constexpr (C::window_left) steps_to(tile.end, Flag<true>());
    pipes.v.release(lane);  // with one stage, the next tile's comes while dQ ends
    end_query();
    pipes.k.release(lane);
  }
  /// dQ of the last step.
  __device__ void end_query() {
    float dq[1][dq_tiles][4];
    wait_for_gradients();
    ptx::wgmma_fence(dq[0]);
    begin_query_product(dq, scores_turn);
    if constexpr (stores_lines) store_values();
    ptx::wgmma_wait<0>(dq[0]);
    put_query(dq);
    give_query();
  }
  /// A barrier of all warps that compute.
  __device__ void meet() const { ptx::barrier_sync<Shapes::together>(1); }

  /// The work on one tile of rows of one head. Without a mask nothing stands between the waits and
  /// the exponentials, so that the compiler may mix them. `first`: of the tile. dQ of a step comes
  /// in the next one, so that the groups do not meet: one may be most of a step ahead, and has the
  /// tensor cores while the other one forms dS.
  template <bool may_mask, bool first>
  __device__ void step(const Place& at, const Dropout<>& dropout, const Score<C>& score,
                       const RowsInSight<C>& sight) {
    // A mask beside anything else leaves registers for one product.
    constexpr bool crowded =
        may_mask && (!Score<C>::none || C::dropout || C::window_left || Element::scales_gradients);
    const ScorePlace<Shapes> place{at.row, tile.place.row, warp, lane};
    const int key0 = tile.place.row + Shapes::ScoreGrid::row(warp);
    Scores s, dp, slopes;
    pipes.q.wait_until_full();
    ptx::wgmma_fence(s[0]);
    begin_product<number, pad16(C::head_dim) / 16>(s[0], score_k.in_loop(), key_stage, score_q,
                                                   pipes.q.offset);
    pipes.dout.wait_until_full();
    ptx::wgmma_fence(dp[0]);
    begin_product<number, pad16(C::head_dim_v) / 16>(dp[0], score_v.in_loop(), value_stage,
                                                     score_dout, pipes.dout.offset);
    const u32 lse_at = pipes.lse() + 4 * place.row_in_tile();
    float2 lse[loads_early ? C::rows / 8 : 1];
    if constexpr (loads_early) {
#pragma unroll
      for (int n = 0; n < C::rows / 8; ++n) lse[n] = ptx::load_floats(lse_at + 32 * n);
    }
    ptx::wgmma_wait<1>(s[0]);
    form_probabilities<Shapes>(s, slopes, score, factor, place, [&](int n) {
      if constexpr (loads_early) return lse[n];
      return ptx::load_floats(lse_at + 32 * n);
    });
    if constexpr (may_mask) hide_unseen<Shapes>(s, sight, place);
    const Operand p_left = as_left<Element>(s);
    Dropped<Shapes> dropped = {};
    if constexpr (C::dropout) {
      dropout.template apply<1, C::rows / 8, true>(
          at.row, key0, lane, [&](int m, int n, int e) { dropped[m][n] |= 1u << e; });
      drop<Shapes>(s, dropped);
    }
    const Operand kept_p = C::dropout ? as_left<Element>(s) : p_left;
    ptx::wgmma_wait<0>(dp[0]);
    if constexpr (C::dropout) {
      scale_by(dp, p.dropout.keep_scale);
      drop<Shapes>(dp, dropped);
    }
    const float ds_scale = power_of_2<Element>(ds_bits - Element::gradient_headroom);
    const u32 delta = pipes.delta();
    if constexpr (keeps_p) {
      form_gradients<Shapes>(s, dp, ds_scale, place, delta);
    } else {
      form_gradients<Shapes>(p_left, dp, ds_scale, place, delta);
    }
    if constexpr (bias_gradient_of<C> != BiasGradient::none) {
      add_bias_gradient<Shapes>(p, {at.sequence, at.head, tile.q_len, tile.place.rows.length}, dp,
                                power_of_2<Element>(-ds_bits), at.row, key0, warp, lane);
    }
    if constexpr (Score<C>::has_slope) multiply_by(dp, slopes);  // not the bias's gradient
    const Operand ds_left = as_left<Element>(dp);
    // Begun here, since no thread may read P, an operand in registers, while the product runs.
    const auto begin_values = [&] {
      ptx::wgmma_fence(dv[0]);
      begin_product<number>(dv[0], kept_p, value_dout, pipes.dout.offset);
    };
    if constexpr (crowded) begin_values();
    put_scores<first>(ds_left);
    if constexpr (crowded) ptx::wgmma_wait<0>(dv[0]);
    float dq[1][dq_tiles][4];
    if constexpr (!first) {
      ptx::wgmma_fence(dq[0]);
      begin_query_product(dq, scores_turn ^ ScorePanels::bytes);
    }
    if constexpr (!crowded) begin_values();
    if constexpr (!first) ptx::wgmma_wait<crowded ? 0 : 1>(dq[0]);
    tell_of_gradients();
    ptx::wgmma_fence(dk[0]);
    begin_product<number>(dk[0], ds_left, key_q, pipes.q.offset);
    if constexpr (!first) put_query(dq);
    ptx::wgmma_wait<1>(dv[0]);
    pipes.dout.release(lane);
    if constexpr (!first) give_query();
    ptx::wgmma_wait<0>(dk[0]);
    pipes.q.release(lane);
  }

  /// dS of the step into shared memory, for both groups' products. They take the two places in
  /// turn: once all warps have put dS of the step before, they have ended dQ of the one before
  /// that, whose place this is.
  template <bool first>
  __device__ void put_scores(const Operand& ds) {
    if constexpr (!first) wait_for_gradients();
    scores_turn ^= ScorePanels::bytes;
    ScorePanels::put(scores + scores_turn + 16 * warp * ScorePanels::row_bytes, ds, lane);
  }
  /// That the warp has put dS, and ended dQ of the step before. Well behind the stores, since a
  /// fence waits for them.
  __device__ void tell_of_gradients() const {
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(gradients_there);
  }
  /// For dS of the step that was put last, by all warps of both groups.
  __device__ void wait_for_gradients() {
    ptx::mbarrier_wait(gradients_there, parity);
    parity ^= 1;
  }
  /// dQ = dS K (line 15), of the dS in that place.
  __device__ void begin_query_product(float (&dq)[1][dq_tiles][4], u32 place) const {
    begin_product<number, C::keys / 16>(dq[0], query_ds, place, query_k.in_loop(), key_stage);
  }
  /// dQ to where the adder takes it. A warp that added to global memory by itself waited for it at
  /// its next loads of shared memory: 16% of the time at 128 columns.
  __device__ void put_query(float (&dq)[1][dq_tiles][4]) const {
    if constexpr (Element::scales_gradients) scale_by(dq, power_of_2<Element>(-ds_bits));
    sums.wait_until_empty();
    put_fragment(sums.stage() + warp % 4 * Shapes::warp_sum_bytes, dq, lane);
  }
  /// Hands it over, like tell_of_gradients.
  __device__ void give_query() {
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(sums.full());
    sums.next();
  }

  /// dV of the tile (line 18). Where blocks share its keys, store_keys adds dV, too.
  __device__ void store_values() {
    if (p.parts.value == 1) store<C::head_dim_v>(dv, p.dv, value_scale<C>(p));
  }
  /// dK of the tile.
  __device__ void store_keys() {
    // mutant "CUDA: dk of sm90" of emulated: p.gradient_scale => 1.0f
    const float scale = p.gradient_scale * power_of_2<Element>(-ds_bits);
    if (p.parts.value > 1) {
      add_keys(scale, value_scale<C>(p));
    } else {
      store<C::head_dim>(dk, p.dk, scale);
    }
  }
  /// Lines go by way of the warp's own rows of the dS that is not the last: once all warps have put
  /// the last one, none reads it, and the warp itself writes there next.
  template <int columns, int n_tiles>
  __device__ void store(const float (&x)[1][n_tiles][4], const kernel::View& view,
                        float scale) const {
    const int first = tile.place.row + 16 * warp;
    if constexpr (stores_lines) {
      const u32 own =
          scores + (scores_turn ^ ScorePanels::bytes) + 16 * warp * ScorePanels::row_bytes;
      char* to = const_cast<char*>(row_at(view, tile.place, first));
      store_rows<Element, SharedTile<16, 64>, columns, C::alignment>(
          own, x, lane, to, 2 * view.row, tile.place.rows.extent - first, scale);
      __syncwarp();  // all lanes have read it
    } else {
      store_fragment<columns, C::alignment>(as_left<Element>(x, scale), lane, [&](int i) -> char* {
        if (first + i >= tile.place.rows.extent) return nullptr;
        return const_cast<char*>(row_at(view, tile.place, first + i));
      });
    }
  }

  /// dK and dV of the heads of this block. The blocks that share the keys add in their order, so
  /// that the bits of dK and dV are always the same.
  __device__ void add_keys(float dk_scale, float dv_scale) {
    const Place& place = tile.place;
    if (place.sequence == p.order.batch) return;  // keys behind the last sequence
    scale_by(dk, dk_scale);
    scale_by(dv, dv_scale);
    const long long at = place.head * p.padded_keys +
                         padded_key_begin<C>(p.keys, place.sequence, place.rows) + place.row;
    int* turn = p.key_turns + at / C::keys;
    if (warp == 0 && lane == 0) ptx::wait_for_turn(turn, tile.part);
    meet();
    add_fragment(Shapes::KeySum::part_of(p.dk_sum + at * Shapes::depth, warp, 0), dk, lane);
    add_fragment(Shapes::ValueSum::part_of(p.dv_sum + at * Shapes::width, warp, 0), dv, lane);
    meet();
    if (warp == 0 && lane == 0) ptx::pass_turn(turn);
  }
};

}  // namespace fa::sm90
