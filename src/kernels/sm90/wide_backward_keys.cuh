// The group of a block that has dS^T and dK of its 64 keys, lines 13, 14 and 16 of Algorithm 2 of
// FlashAttention-2 (Dao 2023, arXiv:2307.08691). It sends dS^T to the other block.
#pragma once

#include "ptx/bulk_copy.cuh"
#include "ptx/proxy.cuh"
#include "sm90/wide_backward_group.cuh"
#include "tile/bias_gradient.cuh"

namespace fa::sm90 {

template <class C>
struct WideKeys : WideGroup<C, 1> {
  using Base = WideGroup<C, 1>;
  using Base::lane, Base::number, Base::p, Base::pipes, Base::tile;
  using typename Base::Element;
  using typename Base::Operand;
  using typename Base::Scores;
  using typename Base::Shapes;

  const PanelOperand<typename Shapes::ValuePanels, kernel::Major::k> score_v;
  const PanelOperand<typename Shapes::DoutPanels, kernel::Major::k> score_dout;
  const PanelOperand<typename Shapes::QueryPanels, kernel::Major::mn> key_q;
  float dk[1][Shapes::KeyGrid::n_tiles][4];

  __device__ WideKeys(const kernel::BackwardParams& params, u32 base, int rank, int warp)
      : Base(params, base, rank, warp),
        score_v(pipes.v.memory),
        score_dout(pipes.dout.memory),
        key_q(pipes.q.memory) {}

  /// Inline, for a call would have all products wait.
  __device__ __forceinline__ void run() {
    while (take_tile(pipes.tiles, lane, tile)) {
      clear(dk);
      if (tile.begin < tile.end) walk();
      // mutant "CUDA: dk of wide heads" of emulated: p.gradient_scale => 1.0f
      Base::template store<0, C::head_dim>(dk, p.dk,
                                           p.gradient_scale * power_of_2<Element>(-Base::ds_bits));
    }
  }

  /// Over the rows that see the keys (line 8).
  __device__ __forceinline__ void walk() {
    Place at = Base::first_step();
    Scores dp;
    pipes.k.wait_until_full();
    pipes.v.wait_until_full();
    begin_gradients(dp);
    int left = Base::steps();
    const auto one_step = [&](auto first, auto more) {
      step<first.value, more.value>(dp, at);
      Base::advance(at);
      --left;
    };
    if (left > 1) {
      one_step(Flag<true>(), Flag<true>());
#pragma unroll 1
      while (left > 1) one_step(Flag<false>(), Flag<true>());
      one_step(Flag<false>(), Flag<false>());
    } else {
      one_step(Flag<true>(), Flag<false>());
    }
    pipes.v.release(lane);
    Base::end_queries();
    pipes.k.release(lane);
  }

  /// Begins dP^T = V dO^T of the next step (line 13), a group of products for each piece of dO.
  __device__ void begin_gradients(Scores& dp) {
    constexpr int slices = pad16(C::head_dim_v) / 16,
                  first_slices = pad16(Shapes::piece_columns) / 16;
    pipes.dout.wait_until_full();
    ptx::wgmma_fence(dp[0]);
    begin_product<number, first_slices>(dp[0], score_v.in_loop(), 0, score_dout, pipes.dout.offset);
    if constexpr (Shapes::dout_pieces == 2) {
      auto piece = pipes.dout;
      piece.next();
      piece.wait_until_full();
      ptx::wgmma_fence(dp[0]);
      constexpr int first_bytes = Shapes::DoutPanels::panels * Shapes::ValuePanels::panel_bytes;
      begin_product<number, slices - first_slices, true>(dp[0], score_v.in_loop(), first_bytes,
                                                         score_dout, piece.offset);
    }
  }

  /// The work on one tile of rows of one head, whose dP^T was begun a step ago, and dQ of the step
  /// before. `first`: of the tile. `more`: another step follows.
  template <bool first, bool more>
  __device__ void step(Scores& dp, const Place& at) {
    const long long move = Base::move_to(at);
    Dropped<Shapes> dropped = {};
    if constexpr (C::dropout) {
      const Dropout<> dropout(p.dropout, p.heads.query, at);
      dropout.template apply<1, C::rows / 8, true>(
          at.row, Base::first_key(), lane, [&](int m, int n, int e) { dropped[m][n] |= 1u << e; });
    }
    ptx::wgmma_wait<0>(dp[0]);
    if constexpr (C::dropout) {
      scale_by(dp, p.dropout.keep_scale);
      drop<Shapes>(dp, dropped);
    }
    form_gradients<Shapes>(take(), dp,
                           power_of_2<Element>(Base::ds_bits - Element::gradient_headroom),
                           Base::place_of(at), pipes.delta());
    if constexpr (bias_gradient_of<C> != BiasGradient::none) {
      add_bias_gradient<Shapes>(p, {at.sequence, at.head, tile.q_len, tile.place.rows.length}, dp,
                                power_of_2<Element>(-Base::ds_bits), at.row, Base::first_key(),
                                Base::keys_warp, lane);
    }
    const Operand ds = as_left<Element>(dp);
    send(ds);
    pipes.dout.release(lane);
    typename Base::Queries dq;
    if constexpr (!first) Base::begin_queries(dq);
    pipes.q.wait_until_full();
    ptx::wgmma_fence(dk[0]);
    begin_product<number>(dk[0], ds, key_q, pipes.q.offset);
    if constexpr (Shapes::dout_pieces == 2) pipes.dout.release(lane);
    if constexpr (!first) {
      ptx::wgmma_wait<1>(dq[0]);
      Base::free_scores();
    }
    if constexpr (more) begin_gradients(dp);
    constexpr int later = more ? Shapes::dout_pieces : 0;
    if constexpr (!first) {
      Base::add_queries(dq);
      Base::move_sum(at, move);
    }
    ptx::wgmma_wait<later>(dk[0]);
    pipes.q.release(lane);
  }

  /// P^T, as the lane of the same number of the other group's warp has left it.
  __device__ Operand take() const {
    Operand x;
    ptx::barrier_sync<64>(Base::pair_barrier());
#pragma unroll
    for (int i = 0; i < C::rows / 16; ++i) {
      const uint4 a = ptx::load_shared(Base::warp_scores() + 512 * i + 16 * lane);
      u32(&to)[4] = x.slice[i][0];
      to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
    }
    return x;
  }

  /// Puts dS^T where P^T was, and sends it to the other block. Each block's barrier waits for four
  /// warps of its own and the bytes of the other's.
  __device__ void send(const Operand& ds) const {
    __syncwarp();  // all lanes have read P^T
    const u32 own = Base::warp_scores();
    Shapes::ScorePanels::put(own, ds, lane);
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane == 0) {
      const u32 peer = Base::rank ^ 1,
                there = Base::shared + Shapes::gradients_there + 8 * Base::slot;
      constexpr int to_peer = Shapes::peer_scores_begin - Shapes::scores_begin;
      ptx::bulk_to_block(ptx::of_block(own + to_peer, peer), own, Shapes::warp_bytes,
                         ptx::of_block(there, peer));
      ptx::mbarrier_arrive_expect(there, Shapes::warp_bytes);
    }
    __syncwarp();
  }
};

}  // namespace fa::sm90
