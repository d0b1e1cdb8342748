// The backward pass, Algorithm 2 of FlashAttention-2 (Dao 2023, arXiv:2307.08691), on mma.sync and
// cp.async: every GPU since A100. docs/kernels/sm80-backward.md walks through it.
//
// A block owns `keys` keys of one key head, with their dK and dV in registers, and walks over the
// query rows that see them, `rows` at a time, of all query heads that share the keys, or of part of
// these; the blocks are parallel over keys, key heads and sequences. Its warps share each product
// as a grid. dQ of the rows is summed in float32 in global memory, since other blocks add to it;
// pass/prepare.cuh comes before, pass/finish.cuh after.
#pragma once

#include "ptx/turn.cuh"
#include "sm80/backward_memory.cuh"
#include "sm80/backward_reader.cuh"
#include "sm80/row_sums.cuh"
#include "sm80/shared_sums.cuh"
#include "tile/bias_gradient.cuh"
#include "tile/dropout.cuh"
#include "tile/form_gradients.cuh"
#include "tile/rows_in_sight.cuh"
#include "tile/store.cuh"

namespace fa::sm80 {

template <class C>
struct Backward : BackwardShapes<C> {
  using Params = kernel::BackwardParams;
  using S = BackwardShapes<C>;
  using Memory = BackwardMemory<S>;
  using typename S::DoutTile, typename S::Element, typename S::KeyGrid, typename S::KeyTile,
      typename S::Operand, typename S::QueryGrid, typename S::QuerySum, typename S::QueryTile,
      typename S::ScoreGrid, typename S::Scores, typename S::ScoreTile, typename S::ValueGrid,
      typename S::ValueTile;
  using QueryPart = QuerySum::Part;
  using KeySums = RowSums<S, KeyGrid>;
  using ValueSums = RowSums<S, ValueGrid>;

  const Params& p;
  const Place place;  ///< of the keys: `row` is the first, `head` that of keys
  const u32 shared;
  const int lane = threadIdx.x % 32;
  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);

  const int part;     ///< of the query heads that share the keys: this block's
  const Place query;  ///< the sequence's rows, of the first of these heads
  const long long padded = padded_row_begin<C>(p.rows, place.sequence, query.rows);
  StepReader<S> reader;

  // Operands, as the warp reads its part of them. V lies as K does, dO as Q, dS as P: where panels
  // and grids are the same, so are the addresses but for an offset, which spares registers.
  const LaneAddress<KeyTile> score_k =
      rows_then_columns(Part<KeyTile>(shared, ScoreGrid::row(warp), first_of(S::depth)), lane);
  const LaneAddress<QueryTile> score_q = columns_then_rows(
      Part<QueryTile>(shared + Memory::stages_at, ScoreGrid::column(warp), first_of(S::depth)),
      lane);
  const LaneAddress<ValueTile> score_v =
      rows_then_columns(Part<ValueTile>(shared, ScoreGrid::row(warp), first_of(S::width)), lane);
  const LaneAddress<DoutTile> score_dout = columns_then_rows(
      Part<DoutTile>(shared + Memory::stages_at, ScoreGrid::column(warp), first_of(S::width)),
      lane);
  const LaneAddress<ScoreTile> value_p = ValueSums::left(shared, warp, lane);
  const LaneAddress<DoutTile> value_dout = rows_then_columns(
      Part<DoutTile>(shared + Memory::stages_at, 0, ValueGrid::column(warp)), lane);
  const LaneAddress<ScoreTile> key_ds = KeySums::left(shared, warp, lane);
  const LaneAddress<QueryTile> key_q = rows_then_columns(
      Part<QueryTile>(shared + Memory::stages_at, 0, KeyGrid::column(warp)), lane);
  const LaneAddress<ScoreTile> query_ds =
      columns_then_rows(Part<ScoreTile>(shared, 0, QueryGrid::row(warp)), lane);
  const LaneAddress<KeyTile> query_k =
      rows_then_columns(Part<KeyTile>(shared, 0, QueryGrid::column(warp)), lane);

  int* dq_turn = nullptr;  ///< of the step before
  KeptSlices<C::key_slices, ScoreGrid::m_tiles> kept_k;
  KeptSlices<C::value_slices, ScoreGrid::m_tiles> kept_v;
  float dk[KeyGrid::m_tiles][KeyGrid::n_tiles][4] = {};
  float dv[ValueGrid::m_tiles][ValueGrid::n_tiles][4] = {};
  float ds_bits = 0;  ///< dS is multiplied by 2 to their power, so that it fits its format
  const float factor = Score<C>::factor(p.score);
  const RowsInSight<C> sight;

  __device__ Backward(const Params& params, const Place& where, int which_part, const Side& rows,
                      u32 base)
      : p(params),
        place(where),
        shared(base),
        part(which_part),
        query{where.sequence, where.head * p.heads.group.value + part * p.part_heads, 0, rows},
        reader(p, query, padded),
        sight(p.window, rows.length, where.rows.length, where.row) {
    if (Element::scales_gradients && sight.first_row <= sight.last_row) {
      ds_bits = gradient_bits<C>(p, place, query);
    }
    reader.begin_at(sight.first_row);
  }

  __device__ void differentiate() {
    if (sight.first_row <= sight.last_row) walk();
    if constexpr (C::deterministic) {
      __syncthreads();
      pass_dq_turn(nullptr);
    }
    ptx::cp_async_wait<0>();
    // mutant "CUDA: dk" of emulated: p.gradient_scale => 1.0f
    const float dk_scale = p.gradient_scale * power_of_2<Element>(-ds_bits);
    const float dv_scale = value_scale<C>(p);
    if (p.parts.value > 1) {
      add_keys(dk_scale, dv_scale);
    } else {
      __syncthreads();
      store<KeyTile, KeyGrid, C::head_dim>(shared, dk, p.dk, dk_scale);
      store<ValueTile, ValueGrid, C::head_dim_v>(shared + Memory::value_at, dv, p.dv, dv_scale);
    }
  }

  /// dK or dV, where no other block has part in it.
  template <typename Tile, typename Grid, int columns, int m_tiles, int n_tiles>
  __device__ void store(u32 tile, const float (&x)[m_tiles][n_tiles][4], const kernel::View& view,
                        float scale) const {
    put_left(Part<Tile>(tile, Grid::row(warp), Grid::column(warp)), as_left<Element>(x, scale),
             lane);
    __syncthreads();
    write_rows<Tile, C::keys, columns, S::threads, C::alignment>(
        tile, const_cast<char*>(row_at(view, place, place.row)), 2 * view.row,
        place.rows.extent - place.row);
  }

  /// dK and dV of the heads of this block. The blocks that share the keys add in their order, which
  /// costs little, once a block, so that the bits of dK and dV are always the same.
  __device__ void add_keys(float dk_scale, float dv_scale) {
    if (place.sequence == p.order.batch) return;  // keys behind the last sequence
    scale_by(dk, dk_scale);
    scale_by(dv, dv_scale);
    const long long at = place.head * p.padded_keys +
                         padded_key_begin<C>(p.keys, place.sequence, place.rows) + place.row;
    int* turn = p.key_turns + at / C::keys;
    if (threadIdx.x == 0) ptx::wait_for_turn(turn, part);
    __syncthreads();
    add_fragment(S::KeySum::part_of(p.dk_sum + at * S::depth, warp, 0), dk, lane);
    add_fragment(S::ValueSum::part_of(p.dv_sum + at * S::width, warp, 0), dv, lane);
    __syncthreads();
    if (threadIdx.x == 0) ptx::pass_turn(turn);
  }

  /// Over the rows that see the keys (line 8 of Algorithm 2).
  __device__ void walk() {
    Step now{sight.first_row, 0};
    u32 stage_offset = 0;
    load_keys<S>(p.operands, place, shared);
    const u32 stages = shared + Memory::stages_at;
    reader.load(now, stages + stage_offset);
    if constexpr (C::key_slices + C::value_slices > 0) {
      ptx::cp_async_wait<0>();  // they come with the first rows
      __syncthreads();
      kept_k.load(score_k, 0);
      kept_v.load(score_v, Memory::value_at);
    }
    Place at = query;
    Dropout<> dropout(p.dropout, p.heads.query, at);
    Score<C> score(p.score, at, sight.k_len);
    for (;;) {
      const Step next = reader.after(now);
      const bool ends = next.row > sight.last_row;
      const u32 next_offset = C::stages == 1 ? 0 : Memory::stage_bytes - stage_offset;
      ptx::cp_async_wait<0>();
      // All have what this step needs, and are done with the one before.
      const bool all_seen = sight.see_all(now.row);
      meet_and_clear_empty_rows<S>(stages + stage_offset, all_seen);
      const auto load_ahead = [&] {
        if (C::stages == 2 && !ends) reader.load(next, stages + next_offset);
      };
      if constexpr (!C::deterministic) load_ahead();
      at.row = now.row;
      at.head = query.head + now.head;
      if (p.part_heads > 1) {
        dropout = Dropout<>(p.dropout, p.heads.query, at);
        score = Score<C>(p.score, at, sight.k_len);
      }
      step(at, dropout, score, stage_offset, all_seen, load_ahead);
      if (ends) break;
      if constexpr (C::stages == 1) {
        __syncthreads();
        reader.load(next, stages + next_offset);
      }
      now = next;
      stage_offset = next_offset;
    }
  }

  /// The work on one tile of rows. P and dS go through shared memory, where other warps read them.
  template <typename LoadAhead>
  __device__ void step(const Place& at, const Dropout<>& dropout, const Score<C>& score,
                       u32 stage_offset, bool all_seen, const LoadAhead& load_ahead) {
    const u32 stage = shared + Memory::stages_at + stage_offset;
    int* counter = nullptr;
    int seen = 0;
    if constexpr (C::deterministic) {
      counter = p.dq_turns + (at.head * p.padded_rows + padded + at.row) / C::rows;
      seen = ptx::look_at_turn(counter);
    }
    const int row0 = at.row + ScoreGrid::column(warp), key0 = place.row + ScoreGrid::row(warp);
    const ScorePlace<S> scores{at.row, place.row, warp, lane};
    const Part<ScoreTile> p_part(shared + Memory::p_at, ScoreGrid::row(warp),
                                 ScoreGrid::column(warp));
    const Part<ScoreTile> ds_part(shared + Memory::ds_at, ScoreGrid::row(warp),
                                  ScoreGrid::column(warp));
    const bool leads = S::sum_part(warp) == 0;
    Scores s = {}, dp = {}, slopes;
    const auto multiply_values = [&] {
      multiply<Element, Lies::along_k, Lies::along_k, S::width / 16 / C::sum_warps>(
          dp, score_v, Memory::value_at, score_dout, stage_offset + Memory::dout_at, kept_v);
    };
    multiply<Element, Lies::along_k, Lies::along_k, S::depth / 16 / C::sum_warps>(
        s, score_k, 0, score_q, stage_offset, kept_k);
    if constexpr (C::sum_warps > 1) {
      multiply_values();
      share_sums<S>(s, dp, shared + Memory::sums_at, warp, lane);
    }
    form_probabilities<S>(s, slopes, score, factor, scores, stage + Memory::lse_at);
    // A branch: as two whole steps, with a mask and without, they spilled more (5% slower in order
    // and at head_dim 96).
    if (!all_seen) hide_unseen<S>(s, sight, scores);
    const Operand p_left = as_left<Element>(s);
    Dropped<S> dropped = {};
    if constexpr (C::dropout) {
      dropout.apply<ScoreGrid::m_tiles, ScoreGrid::n_tiles, true>(
          row0, key0, lane, [&](int m, int n, int e) { dropped[m][n] |= 1u << e; });
      drop<S>(s, dropped);
    }
    const Operand kept_p = C::dropout ? as_left<Element>(s) : p_left;
    if (leads) put_left(p_part, kept_p, lane);
    if constexpr (C::sum_warps == 1) multiply_values();
    ValueSums::add_own(dv, kept_p, value_dout, stage_offset + Memory::dout_at, warp);
    if constexpr (C::dropout) {
      scale_by(dp, p.dropout.keep_scale);
      drop<S>(dp, dropped);
    }
    form_gradients<S>(p_left, dp, power_of_2<Element>(ds_bits - Element::gradient_headroom), scores,
                      stage + Memory::delta_at);
    if constexpr (bias_gradient_of<C> != BiasGradient::none) {
      if (leads) {
        add_bias_gradient<S>(p, {at.sequence, at.head, query.rows.length, sight.k_len}, dp,
                             power_of_2<Element>(-ds_bits), row0, key0, warp, lane);
      }
    }
    if constexpr (Score<C>::has_slope) multiply_by(dp, slopes);  // not the bias's gradient
    const Operand ds_left = as_left<Element>(dp);
    if (leads) put_left(ds_part, ds_left, lane);
    KeySums::add_own(dk, ds_left, key_q, stage_offset, warp);
    __syncthreads();
    if constexpr (C::deterministic) {
      pass_dq_turn(counter);
      load_ahead();  // not sooner: the thread that passes the turn would wait for it
    }
    if constexpr (C::query_last) {
      ValueSums::add_others(dv, value_p, Memory::p_at, value_dout, stage_offset + Memory::dout_at,
                            warp);
      KeySums::add_others(dk, key_ds, Memory::ds_at, key_q, stage_offset, warp);
      if constexpr (C::deterministic) {
        ptx::wait_for_turn(counter, sight.turn_of(at.row), seen);
        __syncwarp();
      }
      float* dq_tile = dq_tile_of(at);
      QueryPart dq = query_part<0>();
      add_share(dq_tile, dq, 0, 0, 1);
      if constexpr (S::query_parts > 1) {
        dq = query_part<1>();
        add_share(dq_tile, dq, 1, 0, 1);
      }
    } else {
      add_between(at, stage_offset);
    }
  }

  /// The warp's first column, of those over which S or dP is a sum.
  __device__ int first_of(int columns) const {
    return S::sum_part(warp) * (columns / C::sum_warps);
  }

  /// dQ first, and its additions to memory, which would delay each other, between the slices of the
  /// products for dV and dK (1 to 4% of the pass, but slower at head_dim 96 and 256).
  __device__ void add_between(const Place& at, u32 stage_offset) {
    constexpr int value_slices = ValueSums::other_slices, key_slices = KeySums::other_slices;
    static_assert(value_slices > 0 && key_slices > 0);
    float* dq_tile = dq_tile_of(at);
    QueryPart dq = query_part<0>();
    ValueSums::add_others(dv, value_p, Memory::p_at, value_dout, stage_offset + Memory::dout_at,
                          warp, [&](int slice) {
                            add_share(dq_tile, dq, 0, slice,
                                      value_slices + (S::query_parts > 1 ? 0 : key_slices));
                          });
    if constexpr (S::query_parts > 1) dq = query_part<1>();
    KeySums::add_others(dk, key_ds, Memory::ds_at, key_q, stage_offset, warp, [&](int slice) {
      if constexpr (S::query_parts > 1) {
        add_share(dq_tile, dq, 1, slice, key_slices);
      } else {
        add_share(dq_tile, dq, 0, value_slices + slice, value_slices + key_slices);
      }
    });
  }

  /// Lets the next block add to the dQ tile of the step before. The additions must have ended, so
  /// that this comes half a step later, after a barrier; the next block is a step behind. The last
  /// warp does it, since the first copies the statistics (2 to 5% of the pass).
  __device__ void pass_dq_turn(int* next) {
    if (threadIdx.x == S::threads - 32 && dq_turn != nullptr) ptx::pass_turn(dq_turn);
    dq_turn = next;
  }

  /// dS K (line 15), of a part of the columns.
  template <int part>
  __device__ QueryPart query_part() const {
    QueryPart dq = {};
    multiply<Element, Lies::across_k, Lies::across_k, C::keys / 16, part * QuerySum::n_tiles>(
        dq.x, query_ds, Memory::ds_at, query_k, 0);
    if constexpr (Element::scales_gradients) scale_by(dq.x, power_of_2<Element>(-ds_bits));
    return dq;
  }
  __device__ float* dq_tile_of(const Place& at) const {
    return p.dq_sum + (at.head * p.padded_rows + padded + at.row) * S::depth;
  }
  __device__ void add_share(float* dq_tile, const QueryPart& dq, int part, int share,
                            int shares) const {
    add_fragment(QuerySum::part_of(dq_tile, warp, part), dq.x, lane, share, shares);
  }

  static __device__ void run(const Params& p) {
    // Each part of a key head counts as one of the heads whose tiles are shared out.
    constexpr Longest longest = C::deterministic ? Longest::last : Longest::first;
    Place place = find_place<C::keys, C::packed_k, C::used_k, longest, true>(
        p.order, p.keys, static_cast<int>(blockIdx.x));
    const int head = place.head / p.parts, part = place.head - head * p.parts.value;
    place.head = head;
    if (place.sequence < 0 || place.row >= place.rows.extent) return;
    Side rows{0, 0, 0};
    if (place.sequence < p.order.batch) {  // else keys behind the last sequence
      rows = side_of<C::packed_q, C::used_q>(p.rows, place.sequence, p.order.batch);
    }
    Backward(p, place, part, rows, ptx::shared_address(ptx::shared_memory())).differentiate();
  }
};

}  // namespace fa::sm80
