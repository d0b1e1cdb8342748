// The backward pass, Algorithm 2 of FlashAttention-2 (Dao 2023, arXiv:2307.08691), on mma.sync and
// cp.async: every GPU since A100. docs/kernels/sm80-backward.md walks through it.
//
// A block owns `keys` keys of one key head, with their dK and dV in registers, and walks over the
// query rows that see them, `rows` at a time, of all query heads that share the keys, or of part of
// these; the blocks are parallel over keys, key heads and sequences. Its warps share each product
// as a grid. dQ of the rows is summed in float32 in global memory, since other blocks add to it;
// backward_prepare.cuh comes before, backward_finish.cuh after.
#pragma once

#include "ptx/turn.cuh"
#include "sm80/backward_shapes.cuh"
#include "sm80/bias_gradient.cuh"
#include "tile/accumulate.cuh"
#include "tile/copy.cuh"
#include "tile/dropout.cuh"
#include "tile/fragment.cuh"
#include "tile/mask.cuh"
#include "tile/rows.cuh"
#include "tile/score.cuh"
#include "tile/store.cuh"

namespace fa::sm80 {

/// What a step works on: rows of a sequence, and which of the heads that share the keys.
struct Step {
  int row;
  int head;
};

template <class C>
struct Backward : BackwardShapes<C> {
  using Params = kernel::BackwardParams;
  using S = BackwardShapes<C>;
  using S::depth, S::query_parts, S::threads, S::width;
  using typename S::DoutTile, typename S::Element, typename S::KeyGrid, typename S::KeySum,
      typename S::KeyTile, typename S::QueryGrid, typename S::QuerySum, typename S::QueryTile,
      typename S::ScoreGrid, typename S::Scores, typename S::ScoreTile, typename S::ValueGrid,
      typename S::ValueSum, typename S::ValueTile;
  using QueryPart = QuerySum::Part;

  // Shared memory: K, V, then places for a step's Q, dO and statistics, then P and dS.
  static constexpr int statistic_chunks = C::rows / 4;  ///< of 16 bytes, of LSE or of delta
  static constexpr int statistics_bytes = 2 * 16 * statistic_chunks;
  static_assert(2 * statistic_chunks <= threads);
  static constexpr int stage_bytes = QueryTile::bytes + DoutTile::bytes + statistics_bytes;
  static constexpr int stages_at = KeyTile::bytes + ValueTile::bytes;
  static constexpr int scores_at = stages_at + C::stages * stage_bytes;
  static_assert(C::shared_bytes == scores_at + 2 * ScoreTile::bytes);
  static_assert(C::stages == 1 || C::stages == 2);
  /// P comes multiplied by 2 to the power of Element::gradient_headroom.
  static constexpr float p_unscale = 1.0f / (1u << static_cast<int>(Element::gradient_headroom));

  /// Whether a warp's keys of a product over rows are those whose P and dS it forms, of some rows.
  template <typename Grid>
  static constexpr bool keeps_rows = Grid::warp_rows == ScoreGrid::warp_rows;
  /// Where the operand of such a product begins.
  template <typename Grid>
  static __device__ int first_row_of(int warp) {
    return keeps_rows<Grid> ? ScoreGrid::column(warp) : 0;
  }
  /// Slices of 16 rows that it has from others.
  template <typename Grid>
  static constexpr int other_slices =
      (C::rows - (keeps_rows<Grid> ? ScoreGrid::warp_columns : 0)) / 16;
  static_assert(ScoreTile::panel == C::rows);  // so that others are an XOR away

  const Params& p;
  const kernel::ForwardParams& f = p.forward;
  const Place place;  ///< of the keys: `row` is the first, `head` that of keys
  const Side rows;    ///< of the queries
  const u32 shared;
  const int lane = threadIdx.x % 32;
  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);

  const int k_len = place.rows.length;
  const int part;           ///< of the query heads that share the keys: this block's
  int first_row, last_row;  ///< of the tiles that see some of the keys; none: last < first
  const Place query;        ///< the sequence's rows, of the first of these heads
  const long long padded = S::padded_row_begin(f, place.sequence, rows);

  TileReader<QueryTile, C::rows, C::head_dim, threads, C::alignment> q;
  TileReader<DoutTile, C::rows, C::head_dim_v, threads, C::alignment> dout;

  // Operands, as the warp reads its part of them. V lies as K does, dO as Q, dS as P: where panels
  // and grids are the same, so are the addresses but for an offset, which spares registers.
  static constexpr u32 value_at = KeyTile::bytes, dout_at = QueryTile::bytes;
  static constexpr u32 p_at = scores_at, ds_at = scores_at + ScoreTile::bytes;
  const LaneAddress<KeyTile> score_k =
      rows_then_columns(Part<KeyTile>(shared, ScoreGrid::row(warp), 0), lane);
  const LaneAddress<QueryTile> score_q =
      columns_then_rows(Part<QueryTile>(shared + stages_at, ScoreGrid::column(warp), 0), lane);
  const LaneAddress<ValueTile> score_v =
      rows_then_columns(Part<ValueTile>(shared, ScoreGrid::row(warp), 0), lane);
  const LaneAddress<DoutTile> score_dout =
      columns_then_rows(Part<DoutTile>(shared + stages_at, ScoreGrid::column(warp), 0), lane);
  const LaneAddress<ScoreTile> value_p = rows_then_columns(
      Part<ScoreTile>(shared, ValueGrid::row(warp), first_row_of<ValueGrid>(warp)), lane);
  const LaneAddress<DoutTile> value_dout =
      rows_then_columns(Part<DoutTile>(shared + stages_at, 0, ValueGrid::column(warp)), lane);
  const LaneAddress<ScoreTile> key_ds = rows_then_columns(
      Part<ScoreTile>(shared, KeyGrid::row(warp), first_row_of<KeyGrid>(warp)), lane);
  const LaneAddress<QueryTile> key_q =
      rows_then_columns(Part<QueryTile>(shared + stages_at, 0, KeyGrid::column(warp)), lane);
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
  const float factor = Score<C>::factor(f);

  __device__ Backward(const Params& params, const Place& where, int which_part,
                      const Side& rows_side, u32 base)
      : p(params),
        place(where),
        rows(rows_side),
        shared(base),
        part(which_part),
        query{where.sequence, where.head * f.group.value + part * p.part_heads, 0, rows_side},
        q(row_at(f.q, query, 0), 2 * f.q.row),
        dout(row_at(p.dout, query, 0), 2 * p.dout.row) {
    find_rows();
    if (Element::scales_gradients && first_row <= last_row) find_ds_bits();
    q.from += first_row * q.stride;
    dout.from += first_row * dout.stride;
  }

  /// |dP - delta| is at most twice |dO| |V| / (1 - p), and |dLSE|.
  __device__ void find_ds_bits() {
    float dout_square = 0, dlse = 0;
    for (int head = query.head; head < query.head + p.part_heads; ++head) {
      dout_square = fmaxf(dout_square, *range_of(p, Range::dout, place.sequence, head));
      dlse = fmaxf(dlse, *range_of(p, Range::dlse, place.sequence, head));
    }
    const float values = *range_of(p, Range::values, place.sequence, place.head);
    // Not their product, which may be beyond float32.
    const float product = 0.5f * (ptx::log2(dout_square) + ptx::log2(values));
    const float bound = fmaxf(product + ptx::log2(f.keep_scale) + 1, ptx::log2(dlse)) + 1;
    ds_bits = fminf(fmaxf(14 - ceilf(bound), -110), 110);
  }

  static __device__ float power_of_2(float bits) {
    return Element::scales_gradients ? ptx::exp2(bits) : 1;
  }

  /// The rows that see the first of the keys begin first, those that see the last end last.
  __device__ void find_rows() {
    const int last = min(place.row + C::keys, k_len) - 1;
    first_row = 0;
    last_row = -1;
    if (last < place.row) return;
    const int begin = rows_of(place.row).begin, end = rows_of(last).end;
    if (begin >= end) return;
    first_row = begin / C::rows * C::rows;
    last_row = (end - 1) / C::rows * C::rows;
  }

  /// Rows that see a key.
  struct RowsOfKey {
    int begin, end;
  };
  __device__ RowsOfKey rows_of(int key) const {
    if (key >= k_len) return {rows.length, 0};
    const auto range = mask::row_range(key, rows.length, k_len, C::window_left ? f.window_left : -1,
                                       C::window_right ? f.window_right : -1);
    return {static_cast<int>(range.begin < rows.length ? range.begin : rows.length),
            static_cast<int>(range.end)};
  }

  __device__ mask::KeyRange visible(int row) const {
    return visible_keys<C::window_left, C::window_right>(f, row, rows.length, k_len);
  }

  __device__ void load_keys() {
    TileReader<KeyTile, C::keys, C::head_dim, threads, C::alignment> k(
        row_at(f.k, place, place.row), 2 * f.k.row);
    TileReader<ValueTile, C::keys, C::head_dim_v, threads, C::alignment> v(
        row_at(f.v, place, place.row), 2 * f.v.row);
    k.load(shared, k_len - place.row);
    v.load(shared + KeyTile::bytes, k_len - place.row);
  }

  /// The heads of a tile of rows follow each other: what all blocks of these keys' heads work on at
  /// a time is then a small part of Q, dO and dQ, and stays in L2.
  __device__ Step after(const Step& step) const {
    if (step.head + 1 < p.part_heads) return {step.row, step.head + 1};
    return {step.row + C::rows, 0};
  }

  /// Starts to load what a step works on: those of the walk, one after the other.
  __device__ void load(const Step& step, u32 stage_offset) {
    const u32 stage = shared + stages_at + stage_offset;
    const kernel::Walk q_walk = p.q_walk, dout_walk = p.dout_walk;
    q.load(stage, rows.length - step.row);
    dout.load(stage + QueryTile::bytes, rows.length - step.row);
    const bool last = step.head + 1 == p.part_heads;
    q.from += last ? q_walk.to_rows : q_walk.to_head;
    dout.from += last ? dout_walk.to_rows : dout_walk.to_head;
    const long long at = (query.head + step.head) * p.padded_rows + padded + step.row;
    if (const int i = threadIdx.x; i < 2 * statistic_chunks) {
      const float* from =
          (i < statistic_chunks ? p.lse_2 : p.delta) + at + i % statistic_chunks * 4;
      ptx::cp_async<16>(stage + QueryTile::bytes + DoutTile::bytes + 16 * i, from, true);
    }
    ptx::cp_async_commit();
  }

  /// A barrier of all threads. A row that sees no key has no gradients, whatever its dO holds: each
  /// thread looks at the LSE that it copied itself, which it need not wait for. Where all rows see
  /// all keys only a bias can leave one without (looking costs up to 8% of the pass).
  __device__ void meet_and_clear_empty_rows(u32 stage, bool all_seen) {
    if (C::bias == Number::none && all_seen) {
      __syncthreads();
      return;
    }
    const u32 statistics = stage + QueryTile::bytes + DoutTile::bytes;
    bool empty = false;
    if (const int i = threadIdx.x; i < statistic_chunks) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        empty = empty || ptx::load_float(statistics + 16 * i + 4 * e) == -minus_infinity;
      }
    }
    if (!__syncthreads_or(empty)) return;
    for (int i = threadIdx.x; i < C::rows * DoutTile::chunks; i += threads) {
      const int row = i / DoutTile::chunks;
      if (ptx::load_float(statistics + 4 * row) == -minus_infinity) {
        ptx::store_shared(stage + QueryTile::bytes + DoutTile::offset(row, i % DoutTile::chunks),
                          uint4{0, 0, 0, 0});
      }
    }
    __syncthreads();
  }

  using Operand = KeptSlices<ScoreGrid::n_tiles / 2, ScoreGrid::m_tiles>;
  using Dropped = u32[ScoreGrid::m_tiles][ScoreGrid::n_tiles];

  /// P^T = exp(S^T - LSE) (line 11 of Algorithm 2) from S^T, and the slopes of the scores.
  __device__ void form_probabilities(Scores& s, Scores& slopes, const Score<C>& score, int tile_row,
                                     u32 statistics) {
    const int row0 = ScoreGrid::column(warp) + fragment_column(0, 0, lane);  // in the tile
#pragma unroll
    for (int m = 0; m < ScoreGrid::m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int key = place.row + ScoreGrid::row(warp) + fragment_row(m, h, lane);
#pragma unroll
        for (int n = 0; n < ScoreGrid::n_tiles; ++n) {
          const float2 pair = ptx::load_floats(statistics + 4 * (row0 + 8 * n));
          const float lse[2] = {pair.x, pair.y};
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = s[m][n][2 * h + e];
            const int row = tile_row + row0 + 8 * n + e;
            if constexpr (!Score<C>::none) x = score.value(x, row, key, slopes[m][n][2 * h + e]);
            // P is at most 1, also where scores are so large that their float32 LSE is far off.
            x = ptx::exp2(ptx::min_or_nan(fmaf(x, factor, Element::gradient_headroom - lse[e]),
                                          Element::gradient_headroom));
          }
        }
      }
    }
  }

  /// Sets P^T to 0 where a row does not see a key. Few steps need it, and branch here: as two whole
  /// steps, with a mask and without, they spilled more (5% slower in order and at head_dim 96).
  /// After the rounding of P it would make head_dim 96 4% slower without a mask, by its spills.
  __device__ void hide_unseen(Scores& x, int tile_row) const {
    const int row0 = tile_row + ScoreGrid::column(warp) + fragment_column(0, 0, lane);
#pragma unroll
    for (int m = 0; m < ScoreGrid::m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const RowsOfKey seen = rows_of(place.row + ScoreGrid::row(warp) + fragment_row(m, h, lane));
#pragma unroll
        for (int n = 0; n < ScoreGrid::n_tiles; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int row = row0 + 8 * n + e;
            // mutant "CUDA: hidden keys of dP" of emulated: row < seen.begin => false
            if (row < seen.begin || (C::window_left && row >= seen.end)) x[m][n][2 * h + e] = 0;
          }
        }
      }
    }
  }

  /// dS^T = P^T (dP^T - delta) (line 14), of P as the products have it.
  __device__ void form_gradients(const Operand& p_left, Scores& dp, u32 statistics) const {
    const int row0 = ScoreGrid::column(warp) + fragment_column(0, 0, lane);
    const float of_p = power_of_2(ds_bits - Element::gradient_headroom);
#pragma unroll
    for (int n = 0; n < ScoreGrid::n_tiles; ++n) {
      const float2 pair = ptx::load_floats(statistics + 4 * (C::rows + row0 + 8 * n));
      const float delta[2] = {pair.x, pair.y};
#pragma unroll
      for (int m = 0; m < ScoreGrid::m_tiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const u32 both = p_left.slice[n / 2][m][n % 2 * 2 + h];
          const float x[2] = {Element::low(both), Element::high(both)};
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& y = dp[m][n][2 * h + e];
            // mutant "CUDA: delta" of emulated: y - delta[e] => y
            y = x[e] * ((y - delta[e]) * of_p);
          }
        }
      }
    }
  }

  /// What is dropped of a fragment becomes 0.
  static __device__ void drop(Scores& x, const Dropped& dropped) {
#pragma unroll
    for (int m = 0; m < ScoreGrid::m_tiles; ++m) {
#pragma unroll
      for (int n = 0; n < ScoreGrid::n_tiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          // mutant "CUDA: dropout of P and dP" of emulated: dropped[m][n] >> e & 1 => false
          if (dropped[m][n] >> e & 1) x[m][n][e] = 0;
        }
      }
    }
  }

  /// C += A B over a step's rows, A of the warp's keys: P^T or dS^T. A warp that forms some of the
  /// keys' rows itself has these in registers, and begins with them.
  template <typename Grid, typename Tile, int n_tiles>
  __device__ void add_own_rows(float (&sum)[Grid::m_tiles][n_tiles][4], const Operand& own,
                               const LaneAddress<Tile>& b, u32 b_offset) const {
    if constexpr (keeps_rows<Grid>) {
      multiply<Element, Lies::across_k>(sum, own, b,
                                        b_offset + ScoreGrid::column(warp) * Tile::row_bytes);
    }
  }
  /// After a barrier: the others, which lie in shared memory.
  template <typename Grid, typename Tile, int n_tiles, typename After = Nothing>
  __device__ void add_other_rows(float (&sum)[Grid::m_tiles][n_tiles][4],
                                 const LaneAddress<ScoreTile>& a, u32 a_offset,
                                 const LaneAddress<Tile>& b, u32 b_offset,
                                 const After& after = {}) const {
    constexpr KeptSlices<0, Grid::m_tiles> none = {};
    if constexpr (!keeps_rows<Grid>) {
      multiply<Element, Lies::along_k, Lies::across_k, C::rows / 16>(sum, a, a_offset, b, b_offset,
                                                                     none, after);
    } else {
      constexpr int part = ScoreGrid::warp_columns;
#pragma unroll
      for (int other = part; other < C::rows; other += part) {
        LaneAddress<ScoreTile> left = a;
        left.chunk ^= 2 * other;
        const int row = ScoreGrid::column(warp) ^ other;
        multiply<Element, Lies::along_k, Lies::across_k, part / 16>(
            sum, left, a_offset, b, b_offset + row * Tile::row_bytes, none,
            [&](int slice) { after((other - part) / 16 + slice); });
      }
    }
  }

  /// Of one tile of rows: P and dS go through shared memory, where other warps read them.
  template <typename LoadAhead>
  __device__ void step(const Place& at, const Dropout& dropout, const Score<C>& score,
                       u32 stage_offset, bool all_seen, const LoadAhead& load_ahead) {
    const u32 stage = shared + stages_at + stage_offset;
    const u32 statistics = stage + QueryTile::bytes + DoutTile::bytes;
    int* counter = nullptr;
    int seen = 0;
    if constexpr (C::deterministic) {
      counter = p.dq_turns + (at.head * p.padded_rows + padded + at.row) / C::rows;
      seen = ptx::look_at_turn(counter);
    }
    const int row0 = at.row + ScoreGrid::column(warp), key0 = place.row + ScoreGrid::row(warp);
    const Part<ScoreTile> p_part(shared + scores_at, ScoreGrid::row(warp), ScoreGrid::column(warp));
    const Part<ScoreTile> ds_part(shared + scores_at + ScoreTile::bytes, ScoreGrid::row(warp),
                                  ScoreGrid::column(warp));
    Scores s = {}, dp = {}, slopes;
    multiply<Element, Lies::along_k, Lies::along_k, depth / 16>(s, score_k, 0, score_q,
                                                                stage_offset, kept_k);
    form_probabilities(s, slopes, score, at.row, statistics);
    if (!all_seen) hide_unseen(s, at.row);
    const Operand p_left = as_left<Element>(s);
    Dropped dropped = {};
    if constexpr (C::dropout) {
      dropout.apply<ScoreGrid::m_tiles, ScoreGrid::n_tiles, true>(
          row0, key0, lane, [&](int m, int n, int e) { dropped[m][n] |= 1u << e; });
      drop(s, dropped);
    }
    const Operand kept_p = C::dropout ? as_left<Element>(s) : p_left;
    put_left(p_part, kept_p, lane);
    multiply<Element, Lies::along_k, Lies::along_k, width / 16>(dp, score_v, value_at, score_dout,
                                                                stage_offset + dout_at, kept_v);
    add_own_rows<ValueGrid>(dv, kept_p, value_dout, stage_offset + dout_at);
    if constexpr (C::dropout) {
      scale_by(dp, f.keep_scale);
      drop(dp, dropped);
    }
    form_gradients(p_left, dp, statistics);
    if constexpr (bias_gradient_of<C> != BiasGradient::none) {
      add_bias_gradient<S>(p, {at.sequence, at.head, rows.length, k_len}, dp, power_of_2(-ds_bits),
                           row0, key0, warp, lane);
    }
    if constexpr (Score<C>::has_slope) multiply_by(dp, slopes);  // not the bias's gradient
    const Operand ds_left = as_left<Element>(dp);
    put_left(ds_part, ds_left, lane);
    add_own_rows<KeyGrid>(dk, ds_left, key_q, stage_offset);
    __syncthreads();
    if constexpr (C::deterministic) {
      pass_dq_turn(counter);
      load_ahead();  // not sooner: who passes the turn would wait for it
    }
    if constexpr (C::query_last) {
      add_other_rows<ValueGrid>(dv, value_p, p_at, value_dout, stage_offset + dout_at);
      add_other_rows<KeyGrid>(dk, key_ds, ds_at, key_q, stage_offset);
      if constexpr (C::deterministic) {
        ptx::wait_for_turn(counter, turn_of(at.row), seen);
        __syncwarp();
      }
      float* dq_tile = dq_tile_of(at);
      QueryPart dq = query_part<0>();
      add_share(dq_tile, dq, 0, 0, 1);
      if constexpr (query_parts > 1) {
        dq = query_part<1>();
        add_share(dq_tile, dq, 1, 0, 1);
      }
    } else {
      add_between(at, stage_offset);
    }
  }

  /// dQ first, and its additions to memory, which would delay each other, between the slices of the
  /// products for dV and dK (1 to 4% of the pass, but slower at head_dim 96 and 256).
  __device__ void add_between(const Place& at, u32 stage_offset) {
    constexpr int value_slices = other_slices<ValueGrid>, key_slices = other_slices<KeyGrid>;
    static_assert(value_slices > 0 && key_slices > 0);
    float* dq_tile = dq_tile_of(at);
    QueryPart dq = query_part<0>();
    add_other_rows<ValueGrid>(
        dv, value_p, p_at, value_dout, stage_offset + dout_at, [&](int slice) {
          add_share(dq_tile, dq, 0, slice, value_slices + (query_parts > 1 ? 0 : key_slices));
        });
    if constexpr (query_parts > 1) dq = query_part<1>();
    add_other_rows<KeyGrid>(dk, key_ds, ds_at, key_q, stage_offset, [&](int slice) {
      if constexpr (query_parts > 1) {
        add_share(dq_tile, dq, 1, slice, key_slices);
      } else {
        add_share(dq_tile, dq, 0, value_slices + slice, value_slices + key_slices);
      }
    });
  }

  /// What the block added to dQ a step ago is its successor's to build on. It is said half a step
  /// later, after a barrier, for who says it waits for the additions; the successor is a step
  /// behind. It is the last warp, since the first copies the statistics (2 to 5% of the pass).
  __device__ void pass_dq_turn(int* next) {
    if (threadIdx.x == threads - 32 && dq_turn != nullptr) ptx::pass_turn(dq_turn);
    dq_turn = next;
  }

  /// dS K (line 15), of a part of the columns.
  template <int part>
  __device__ QueryPart query_part() const {
    QueryPart dq = {};
    multiply<Element, Lies::across_k, Lies::across_k, C::keys / 16, part * QuerySum::n_tiles>(
        dq.x, query_ds, ds_at, query_k, 0);
    if constexpr (Element::scales_gradients) scale_by(dq.x, power_of_2(-ds_bits));
    return dq;
  }
  __device__ float* dq_tile_of(const Place& at) const {
    return p.dq_sum + (at.head * p.padded_rows + padded + at.row) * depth;
  }
  __device__ void add_share(float* dq_tile, const QueryPart& dq, int part, int share,
                            int shares) const {
    add_fragment(QuerySum::part_of(dq_tile, warp, part), dq.x, lane, share, shares);
  }

  /// The blocks of the keys that a tile of rows sees add to its dQ in order, that of the last keys
  /// first: under a mask from the right it comes a step earlier to each tile than the next one. It
  /// also is the first to run (see the kernel), so that nobody waits for a block that comes later.
  __device__ int turn_of(int tile_row) const {
    const long long end = visible(min(tile_row + C::rows, rows.length) - 1).end;
    return static_cast<int>((end - 1) / C::keys) - place.row / C::keys;
  }

  __device__ void differentiate() {
    if (first_row <= last_row) walk();
    if constexpr (C::deterministic) {
      __syncthreads();
      pass_dq_turn(nullptr);
    }
    ptx::cp_async_wait<0>();
    // mutant "CUDA: dk" of emulated: p.gradient_scale => 1.0f
    const float dk_scale = p.gradient_scale * power_of_2(-ds_bits);
    const float dv_scale = (C::dropout ? f.keep_scale : 1) * p_unscale;
    if (p.parts.value > 1) {
      add_keys(dk_scale, dv_scale);
    } else {
      __syncthreads();
      store<KeyTile, KeyGrid, C::head_dim>(shared, dk, p.dk, dk_scale);
      store<ValueTile, ValueGrid, C::head_dim_v>(shared + KeyTile::bytes, dv, p.dv, dv_scale);
    }
  }

  /// dK and dV of the heads of this block. The blocks that share the keys add in their order, which
  /// costs little, once a block, so that the bits of dK and dV are always the same.
  __device__ void add_keys(float dk_scale, float dv_scale) {
    if (place.sequence == f.batch) return;  // keys behind the last sequence
    scale_by(dk, dk_scale);
    scale_by(dv, dv_scale);
    const long long at =
        place.head * p.padded_keys + S::padded_key_begin(f, place.sequence, place.rows) + place.row;
    int* turn = p.key_turns + at / C::keys;
    if (threadIdx.x == 0) ptx::wait_for_turn(turn, part);
    __syncthreads();
    add_fragment(KeySum::part_of(p.dk_sum + at * depth, warp, 0), dk, lane);
    add_fragment(ValueSum::part_of(p.dv_sum + at * width, warp, 0), dv, lane);
    __syncthreads();
    if (threadIdx.x == 0) ptx::pass_turn(turn);
  }

  /// Over the rows that see the keys.
  __device__ void walk() {
    Step now{first_row, 0};
    u32 stage_offset = 0;
    load_keys();
    load(now, stage_offset);
    if constexpr (C::key_slices + C::value_slices > 0) {
      ptx::cp_async_wait<0>();  // they come with the first rows
      __syncthreads();
      kept_k.load(score_k, 0);
      kept_v.load(score_v, value_at);
    }
    Place at = query;
    Dropout dropout(f, at);
    Score<C> score(f, at, k_len);
    for (;;) {
      const Step next = after(now);
      const bool ends = next.row > last_row;
      const u32 next_offset = C::stages == 1 ? 0 : stage_bytes - stage_offset;
      ptx::cp_async_wait<0>();
      // All have what this step needs, and are done with the one before.
      const bool all_seen = sees_all(now.row);
      meet_and_clear_empty_rows(shared + stages_at + stage_offset, all_seen);
      const auto load_ahead = [&] {
        if (C::stages == 2 && !ends) load(next, next_offset);
      };
      if constexpr (!C::deterministic) load_ahead();
      at.row = now.row;
      at.head = query.head + now.head;
      if (p.part_heads > 1) {
        dropout = Dropout(f, at);
        score = Score<C>(f, at, k_len);
      }
      step(at, dropout, score, stage_offset, all_seen, load_ahead);
      if (ends) break;
      if constexpr (C::stages == 1) {
        __syncthreads();
        load(next, next_offset);
      }
      now = next;
      stage_offset = next_offset;
    }
  }

  /// Whether all rows of a tile see all of the block's keys.
  __device__ bool sees_all(int row) const {
    if (C::all_seen) return true;
    return visible(row).end >= place.row + C::keys && visible(row + C::rows - 1).begin <= place.row;
  }

  template <typename Tile, typename Grid, int columns, int m_tiles, int n_tiles>
  __device__ void store(u32 tile, const float (&x)[m_tiles][n_tiles][4], const kernel::View& view,
                        float scale) const {
    put_left(Part<Tile>(tile, Grid::row(warp), Grid::column(warp)), as_left<Element>(x, scale),
             lane);
    __syncthreads();
    write_rows<Tile, C::keys, columns, threads, C::alignment>(
        tile, const_cast<char*>(row_at(view, place, place.row)), 2 * view.row,
        place.rows.extent - place.row);
  }

  static __device__ void run(const Params& p) {
    const kernel::ForwardParams& f = p.forward;
    // Each part of a key head counts as one of the heads whose tiles are shared out.
    constexpr Longest longest = C::deterministic ? Longest::last : Longest::first;
    Place place = find_place<C::keys, C::packed_k, C::used_k, longest>(
        f, f.keys, p.order_heads, static_cast<int>(blockIdx.x), p.first_sequence, p.first_head);
    const int head = place.head / p.parts, part = place.head - head * p.parts.value;
    place.head = head;
    if (place.sequence < 0 || place.row >= place.rows.extent) return;
    Side rows{0, 0, 0};
    if (place.sequence < f.batch) {  // else keys behind the last sequence
      rows = side_of<C::packed_q, C::used_q>(f.rows, place.sequence, f.batch);
    }
    Backward(p, place, part, rows, ptx::shared_address(ptx::shared_memory())).differentiate();
  }
};

}  // namespace fa::sm80
