// A warp group that computes: 64 keys of each of the block's tiles, Algorithm 2 of FlashAttention-2
// (Dao 2023, arXiv:2307.08691).
#pragma once

#include "ptx/barrier.cuh"
#include "ptx/bulk_copy.cuh"
#include "ptx/proxy.cuh"
#include "ptx/turn.cuh"
#include "sm90/backward_shapes.cuh"
#include "tile/bias_gradient.cuh"
#include "tile/dropout.cuh"
#include "tile/form_gradients.cuh"
#include "tile/group_product.cuh"
#include "tile/rows.cuh"
#include "tile/rows_in_sight.cuh"
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
  /// LSE is loaded while S^T is under way, where registers are left for it.
  static constexpr bool loads_early = C::rows == 64;

  const kernel::BackwardParams& p;
  const int warp;  ///< of the warps that compute
  const int lane = threadIdx.x % 32;
  BackwardPipes<C> pipes;
  u32 scores;            ///< dS^T of two steps in shared memory
  u32 scores_turn = 0;   ///< the place of the last that was put, in bytes from the first
  u32 parity = 0;        ///< of the step before, where dQ is late
  const u32 query_sums;  ///< the warp's dQ on its way to global memory
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
  u32 key_stage = 0;  ///< of K, in bytes from the first
  float dk[1][dk_tiles][4];
  float dv[1][dv_tiles][4];
  float ds_bits = 0;  ///< dS is multiplied by 2 to their power, so that it fits its format
  const float factor;
  float* dq_sum = nullptr;  ///< of the step whose dQ comes next; not late, of the step before
  int* dq_turn = nullptr;   ///< of the step before

  __device__ BackwardGroup(const kernel::BackwardParams& params, u32 base, int computing_warp)
      : p(params),
        warp(computing_warp),
        pipes(base),
        scores(base + Shapes::scores_begin),
        query_sums(base + Shapes::query_sums_begin + computing_warp * Shapes::query_bytes),
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
      if (tile.begin < tile.end) walk();
      store();
    }
    if (C::staged_dq && lane == 0) ptx::bulk_wait_read<0>();  // a block ends behind its copies
  }

  /// Over the rows that see the keys (line 8 of Algorithm 2).
  __device__ __forceinline__ void walk() {
    const RowsInSight<C> sight(p.window, tile.q_len, tile.place.rows.length, tile.place.row);
    Place at{tile.place.sequence, tile.query_head, 0, {0, tile.q_len, tile.q_len}};
    if constexpr (Element::scales_gradients) ds_bits = gradient_bits<C>(p, tile.place, at);
    Dropout dropout(p.dropout, p.heads.query, at);
    Score<C> score(p.score, at, tile.place.rows.length);
    pipes.k.wait_until_full();
    pipes.v.wait_until_full();
    if constexpr (C::key_stages > 1) key_stage = uniform(pipes.k.offset);
    at.row = start_of<C>(tile);
    int head = 0;
    dq_sum =
        Shapes::QuerySum::part_of(p.dq_sum + padded_row<C>(p, tile, at) * Shapes::depth, warp, 0);
    if constexpr (!C::staged_dq) dq_sum += sum_index(lane, 0);
    const auto dq_move = [&] { return sum_move<C>(p, tile, at.row, head > 0); };
    if constexpr (!C::late_dq) dq_sum -= dq_move();
    const auto one_step = [&](auto may_mask, auto first) {
      at.head = tile.query_head + head;
      if (p.part_heads > 1) {
        dropout = Dropout(p.dropout, p.heads.query, at);
        score = Score<C>(p.score, at, tile.place.rows.length);
      }
      step<may_mask.value, first.value>(at, dropout, score, sight, dq_move());
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
    if constexpr (C::late_dq) one_step(Flag<!C::all_seen>(), Flag<true>());
    if constexpr (C::all_seen) {
      steps(steps_of<C>(tile, p.part_heads) - C::late_dq, Flag<false>());
    } else {
      steps_to(tile.full_begin, Flag<true>());
      steps_to(tile.full_end, Flag<false>());
    }
    if constexpr (C::window_left) steps_to(tile.end, Flag<true>());
    if constexpr (C::late_dq) {  // of the last step
      float dq[1][dq_tiles][4];
      begin_late_query(dq);
      ptx::wgmma_wait<0>(dq[0]);
      add_query(dq);
    }
    pipes.k.release(lane);
    pipes.v.release(lane);
    if constexpr (C::deterministic) {
      meet();
      pass_dq_turn(nullptr);
    }
  }
  /// A barrier of all warps that compute. With an order, their additions to dQ have been done.
  __device__ void meet() const {
    if (C::deterministic && C::staged_dq && lane == 0) ptx::bulk_wait<0>();
    ptx::barrier_sync<Shapes::together>(1);
  }

  /// The work on one tile of rows of one head. Without a mask nothing stands between the waits and
  /// the exponentials, so that the compiler may mix them. `first`: of the tile, where dQ is late.
  /// dq_move: from the sum of dQ of the step before to that of this one.
  template <bool may_mask, bool first>
  __device__ void step(const Place& at, const Dropout& dropout, const Score<C>& score,
                       const RowsInSight<C>& sight, long long dq_move) {
    const ScorePlace<Shapes> place{at.row, tile.place.row, warp, lane};
    const int key0 = tile.place.row + Shapes::ScoreGrid::row(warp);
    int* counter = nullptr;
    int seen = 0;
    if constexpr (C::deterministic) {
      counter = p.dq_turns + padded_row<C>(p, tile, at) / C::rows;
      seen = ptx::look_at_turn(counter);
    }
    Scores s, dp, slopes;
    pipes.q.wait_until_full();
    ptx::wgmma_fence(s[0]);
    begin_product<number, pad16(C::head_dim) / 16>(s[0], score_k.in_loop(), key_stage, score_q,
                                                   pipes.q.offset);
    pipes.dout.wait_until_full();
    ptx::wgmma_fence(dp[0]);
    begin_product<number, pad16(C::head_dim_v) / 16>(dp[0], score_v.in_loop(), 0, score_dout,
                                                     pipes.dout.offset);
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
    const auto begin_values = [&] {
      ptx::wgmma_fence(dv[0]);
      begin_product<number>(dv[0], kept_p, value_dout, pipes.dout.offset);
    };
    // An operand in registers may not be read while its product is under way.
    constexpr bool reads_p = !keeps_p && !C::dropout;
    if constexpr (!reads_p) begin_values();
    ptx::wgmma_wait<reads_p ? 0 : 1>(dp[0]);
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
    if constexpr (reads_p) begin_values();
    if constexpr (bias_gradient_of<C> != BiasGradient::none) {
      add_bias_gradient<Shapes>(p, {at.sequence, at.head, tile.q_len, tile.place.rows.length}, dp,
                                power_of_2<Element>(-ds_bits), at.row, key0, warp, lane);
    }
    if constexpr (Score<C>::has_slope) multiply_by(dp, slopes);  // not the bias's gradient
    const Operand ds_left = as_left<Element>(dp);
    if constexpr (C::late_dq) {
      end_with_late_query<first>(ds_left, dq_move);
    } else {
      put_scores(ds_left);
      meet();
      if constexpr (C::deterministic) pass_dq_turn(counter);
      float dq[1][dq_tiles][4];
      ptx::wgmma_fence(dq[0], dk[0]);
      begin_query_product(dq);
      begin_product<number>(dk[0], ds_left, key_q, pipes.q.offset);
      ptx::wgmma_wait<1>(dv[0], dq[0]);
      pipes.dout.release(lane);
      if constexpr (C::deterministic) {
        ptx::wait_for_turn(counter, sight.turn_of(at.row), seen);
        __syncwarp();
      }
      dq_sum += dq_move;
      add_query(dq);
      ptx::wgmma_wait<0>(dk[0]);
      pipes.q.release(lane);
    }
  }

  /// dK of the step, whose dS goes to shared memory, and dQ of the step before. The groups do not
  /// meet: one may be most of a step ahead, and uses the tensor cores while the other forms dS.
  template <bool first>
  __device__ void end_with_late_query(const Operand& ds_left, long long dq_move) {
    float dq[1][dq_tiles][4];
    if constexpr (!first) begin_late_query(dq);
    put_scores(ds_left);
    ptx::wgmma_fence(dk[0]);
    begin_product<number>(dk[0], ds_left, key_q, pipes.q.offset);
    ptx::wgmma_wait<first ? 1 : 2>(dv[0]);
    pipes.dout.release(lane);
    if constexpr (!first) ptx::wgmma_wait<1>(dq[0]);
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(gradients_there);
    if constexpr (!first) {
      add_query(dq);
      dq_sum += dq_move;
    }
    ptx::wgmma_wait<0>(dk[0]);
    pipes.q.release(lane);
  }
  /// dQ of the step before, once all warps have put its dS: they have then ended dQ of the step
  /// before that one, too, where dS of this step goes.
  __device__ void begin_late_query(float (&dq)[1][dq_tiles][4]) {
    ptx::mbarrier_wait(gradients_there, parity);
    parity ^= 1;
    ptx::wgmma_fence(dq[0]);
    begin_query_product(dq);
  }

  /// dS of the step into shared memory, for both groups' products. They take the two places in
  /// turn.
  __device__ void put_scores(const Operand& ds) {
    scores_turn ^= ScorePanels::bytes;
    ScorePanels::put(scores + scores_turn + 16 * warp * ScorePanels::row_bytes, ds, lane);
    ptx::fence_proxy_async();
  }
  /// dQ = dS K (line 15), of the dS that was put last, once all warps have met.
  __device__ void begin_query_product(float (&dq)[1][dq_tiles][4]) const {
    begin_product<number, C::keys / 16>(dq[0], query_ds, scores_turn, query_k.in_loop(), key_stage);
  }
  /// Adds to the sum at dq_sum. Warps that add by themselves wait for it later, 15% of the time at
  /// 64 columns. At 128 the products keep shared memory too busy for dQ's way through it: it made
  /// the kernel 3% slower.
  __device__ void add_query(float (&dq)[1][dq_tiles][4]) const {
    if constexpr (Element::scales_gradients) scale_by(dq, power_of_2<Element>(-ds_bits));
    if constexpr (!C::staged_dq) {
      add_fragment(dq_sum, dq, 0);
    } else {
      if (lane == 0) ptx::bulk_wait_read<0>();
      __syncwarp();
      put_fragment(query_sums, dq, lane);
      ptx::fence_proxy_async();
      __syncwarp();
      if (lane == 0) {
        ptx::bulk_add(dq_sum, query_sums, Shapes::query_bytes);
        ptx::bulk_commit();
      }
      __syncwarp();
    }
  }

  /// Lets the next block add to the dQ tile of the step before, after a barrier behind the
  /// additions of all warps.
  __device__ void pass_dq_turn(int* next) {
    if (warp == 7 && lane == 0 && dq_turn != nullptr) ptx::pass_turn(dq_turn);
    dq_turn = next;
  }

  /// dK and dV of the tile (line 18).
  __device__ void store() {
    // mutant "CUDA: dk of sm90" of emulated: p.gradient_scale => 1.0f
    const float dk_scale = p.gradient_scale * power_of_2<Element>(-ds_bits);
    const float dv_scale = value_scale<C>(p);
    if (p.parts.value > 1) {
      add_keys(dk_scale, dv_scale);
    } else {
      store_rows<C::head_dim>(dk, p.dk, dk_scale);
      store_rows<C::head_dim_v>(dv, p.dv, dv_scale);
    }
  }
  template <int columns, int n_tiles>
  __device__ void store_rows(const float (&x)[1][n_tiles][4], const kernel::View& view,
                             float scale) const {
    const int first = tile.place.row + 16 * warp;
    store_fragment<columns, C::alignment>(as_left<Element>(x, scale), lane, [&](int i) -> char* {
      if (first + i >= tile.place.rows.extent) return nullptr;
      return const_cast<char*>(row_at(view, tile.place, first + i));
    });
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
