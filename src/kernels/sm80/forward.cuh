// The forward pass, Algorithm 1 of FlashAttention-2 (Dao 2023, arXiv:2307.08691), on mma.sync and
// cp.async: every GPU since A100. docs/kernels/sm80-forward.md walks through it.
//
// A block owns `rows` query rows of one head and walks over the keys they see; the blocks are
// parallel over query rows, heads and sequences (3.2 of the paper). Its warps split the rows, K and
// V are shared (3.3). O is divided by the sum once, at the end (3.1). K and V arrive in shared
// memory `keys` at a time.
//
// For an ablation each of the three can be switched off: `serial_rows`, `warps_split_keys`,
// `normalize_steps`.
#pragma once

#include "ptx/barrier.cuh"
#include "tile/copy.cuh"
#include "tile/join.cuh"
#include "tile/normalize.cuh"
#include "tile/place.cuh"
#include "tile/score.cuh"
#include "tile/softmax.cuh"
#include "tile/steps.cuh"
#include "tile/store.cuh"

namespace fa::sm80 {

using namespace fa::tile;
namespace c = fa::config;

using Element = Format<c::element>;
using Terms = ScoreTerms<c::element, c::softcap, c::alibi, c::bias, !c::positive_scale>;

constexpr int pad16(int n) { return (n + 15) / 16 * 16; }

constexpr int threads = 32 * c::warps;
constexpr int copying_threads = threads / c::groups;  ///< of a tile of K or of V
constexpr int m_tiles = c::warp_rows / 16;
constexpr int warp_keys = c::warps_split_keys ? c::keys / c::warps : c::keys;  ///< of a step
constexpr int n_tiles = warp_keys / 8;
constexpr int rows = c::warps_split_keys ? c::warp_rows : c::warps * c::warp_rows;
constexpr int warp_row_step = c::warps_split_keys ? 0 : c::warp_rows;  ///< from warp to warp
constexpr int warp_key_step = c::warps_split_keys ? warp_keys : 0;
static_assert(warp_keys % 16 == 0 && (c::groups == 1 || !c::warps_split_keys));
constexpr int depth = pad16(c::head_dim);       ///< of Q K^T
constexpr int width = pad16(c::value_columns);  ///< of V, as this block sees it
constexpr int o_tiles = width / 8;
constexpr int slices = depth / 16;

using QueryTile = SharedTile<rows, depth>;
using KeyTile = SharedTile<c::keys, depth>;
using ValueTile = SharedTile<c::keys, width>;
using Softmax = OnlineSoftmax<Element, m_tiles>;
using OutTile = SharedTile<rows, width>;

constexpr int stage_bytes = KeyTile::bytes + ValueTile::bytes;

/// First of V's columns that this block works on. The last slice ends where V does: what it shares
/// with the one before, both form, to the same bits.
__device__ int first_value_column() {
  const int first = c::value_columns * blockIdx.z;
  if constexpr (c::head_dim_v % c::value_columns == 0) return first;
  constexpr int last = c::head_dim_v - c::value_columns;
  return first < last ? first : last;
}

__device__ const char* row_of(const kernel::View& view, const Place& place, int head,
                              long long row) {
  return static_cast<const char*>(view.data) +
         2 * (place.sequence * view.batch + row * view.row + head * view.head);
}

__device__ void load_queries(const kernel::ForwardParams& p, const Place& place, u32 shared) {
  TileReader<QueryTile, rows, c::head_dim, threads, c::alignment>(
      row_of(p.q, place, place.head, place.rows.begin + place.row), 2 * p.q.row)
      .load(shared, place.rows.length - place.row);
}

struct Forward {
  const kernel::ForwardParams& p;
  const Place place;
  const int k_len;
  const u32 shared;  ///< [Q][stages of K, V]; O at the end
  const int lane = threadIdx.x % 32;
  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);  // uniform for the compiler too

  const int group = warp / (c::warps / c::groups);
  const int warp_row = place.row + warp * warp_row_step;  ///< first of the warp, in the sequence
  const LaneAddress<QueryTile> query =
      rows_then_columns<QueryTile>(shared + warp * warp_row_step * QueryTile::row_bytes, lane);
  const LaneAddress<KeyTile> key = columns_then_rows<KeyTile>(
      shared + QueryTile::bytes + warp * warp_key_step * KeyTile::row_bytes, lane);
  const LaneAddress<ValueTile> value = rows_then_columns<ValueTile>(
      shared + QueryTile::bytes + KeyTile::bytes + warp * warp_key_step * ValueTile::row_bytes,
      lane);

  const Steps all, own;  ///< of the block's rows and of the warp's
  TileReader<KeyTile, c::keys, c::head_dim, copying_threads, c::alignment, c::groups == 1> k;
  TileReader<ValueTile, c::keys, c::value_columns, copying_threads, c::alignment, c::groups == 1> v;
  u32 q[c::query_slices == 0 ? 1 : c::query_slices][m_tiles][4];  ///< the slices kept in registers
  float o[m_tiles][o_tiles][4] = {};
  u32 p_packed[n_tiles / 2][m_tiles][4];  ///< P of the last step, as operand A
  Softmax softmax;
  bool unseen = true;  ///< some row of the warp has not seen a key
  const Score<Terms> score;
  const Dropout dropout;
  /// What the scores still lack: a multiplication that goes into the exponent's.
  const float factor = Terms::none ? p.scale : Terms::only_softcap ? p.softcap : 1;

  __device__ Forward(const kernel::ForwardParams& params, const Place& where, const Side& keys_side,
                     u32 base)
      : p(params),
        place(where),
        k_len(keys_side.length),
        shared(base),
        all(steps_of(place.row, rows)),
        own(steps_of(warp_row, c::warp_rows)),
        k(row_of(p.k, place, place.head / p.group, keys_side.begin + all.begin * c::keys),
          2 * p.k.row),
        v(row_of(p.v, place, place.head / p.group, keys_side.begin + all.begin * c::keys) +
              2 * first_value_column(),
          2 * p.v.row),
        score(p, place, k_len),
        dropout(p, place) {
    load_queries(p, place, shared);
  }

  __device__ Steps steps_of(int first, int count) const {
    int last = first + count - 1;
    if (last >= place.rows.length) last = place.rows.length - 1;
    if (last < first) return {0, 0, 0, 0};
    const auto low = visible(first), high = visible(last);
    long long begin = low.begin, end = high.end;
    if constexpr (c::split) {
      const long long split = static_cast<long long>(blockIdx.y) * p.split_keys;
      begin = begin > split ? begin : split;
      end = end < split + p.split_keys ? end : split + p.split_keys;
    }
    return steps_between<c::keys>(low, high, begin, end);
  }
  __device__ mask::KeyRange visible(int row) const {
    return visible_keys<c::window_left, c::window_right>(p, row, place.rows.length, k_len);
  }

  static constexpr u32 ring = c::stages * stage_bytes;
  static __device__ u32 after(u32 stage) {
    return stage == ring - stage_bytes ? 0 : stage + stage_bytes;
  }
  static __device__ u32 before(u32 stage) {
    return stage == 0 ? ring - stage_bytes : stage - stage_bytes;
  }

  /// Starts to load what the turn `ahead` of `index` works on: K of its step, V of the step before.
  static constexpr int ahead = c::stages - 1;
  __device__ void load_ahead(int index, u32 stage) {
    const int step = index + ahead;
    const u32 at = shared + QueryTile::bytes;
    if (step < all.end && (c::groups == 1 || group == 1)) {
      k.load(at + before(stage), k_len - step * c::keys);
    }
    if (step > all.begin && step <= all.end && (c::groups == 1 || group == 0)) {
      v.load(at + before(before(stage)) + KeyTile::bytes, k_len - (step - 1) * c::keys);
    }
    ptx::cp_async_commit();
  }

  __device__ void load_query_slice(u32 (&a)[m_tiles][4], int slice) const {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) ptx::ldmatrix(a[m], query.at(0, 16 * m, 16 * slice));
  }

  /// S = Q K_j^T (line 8).
  __device__ void multiply_scores(float (&s)[m_tiles][n_tiles][4], u32 stage) const {
#pragma unroll
    for (int slice = 0; slice < slices; ++slice) {
      u32 from_shared[m_tiles][4];
      if (slice >= c::query_slices) load_query_slice(from_shared, slice);
      const auto& a = slice < c::query_slices ? q[slice] : from_shared;
#pragma unroll
      for (int n = 0; n < n_tiles; n += 2) {
        u32 b[4];
        ptx::ldmatrix(b, key.at(stage, 8 * n, 16 * slice));
#pragma unroll
        for (int m = 0; m < m_tiles; ++m) {
          if (slice == 0) clear(s[m][n], s[m][n + 1]);
          Element::mma(s[m][n], a[m], b[0], b[1]);
          Element::mma(s[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }
  static __device__ void clear(float (&a)[4], float (&b)[4]) {
#pragma unroll
    for (int e = 0; e < 4; ++e) a[e] = b[e] = 0;
  }

  /// Terms of the score, and -inf where a row does not see the key.
  template <bool masked>
  __device__ void form_scores(float (&s)[m_tiles][n_tiles][4], int first) const {
    if constexpr (Terms::none && !masked) return;
    const int lane_key = first + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = warp_row + 16 * m + 8 * h + lane / 4;
        const auto seen = visible(row);
        const int begin = static_cast<int>(seen.begin), end = static_cast<int>(seen.end);
#pragma unroll
        for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = s[m][n][2 * h + e];
            const int j = lane_key + 8 * n + e;
            if constexpr (!Terms::none) x = score(x, row, j);
            if constexpr (masked) {
              if ((c::window_left && j < begin) || j >= end) x = minus_infinity;
            }
          }
        }
      }
    }
  }

  /// O += P V_j (line 10).
  __device__ void multiply_values(u32 stage) {
#pragma unroll
    for (int n = 0; n < n_tiles; n += 2) {
#pragma unroll
      for (int d = 0; d < o_tiles; d += 2) {
        u32 b[4];
        ptx::ldmatrix_trans(b, value.at(stage, 8 * n, 8 * d));
#pragma unroll
        for (int m = 0; m < m_tiles; ++m) {
          Element::mma(o[m][d], p_packed[n / 2][m], b[0], b[1]);
          Element::mma(o[m][d + 1], p_packed[n / 2][m], b[2], b[3]);
        }
      }
    }
  }

  /// P = exp(S - m) with the running maximum and sum (line 9).
  template <bool masked>
  __device__ void exponentiate(float (&s)[m_tiles][n_tiles][4], int first, u32 stage) {
    float added[m_tiles][2];
    bool fresh = !c::stale_maximum || unseen;
    for (;;) {
      form_scores<masked>(s, first);
      if (fresh) renew_maximum(s);
      softmax.exponentiate(s, added, factor);
      // Also asked after a fresh maximum, which needs no answer, where that spares a branch between
      // exponentials and sums (+6% at 64); from 128 on these had better stay apart, for the
      // registers (+7%).
      const bool ask = depth <= 96 || !fresh;
      const bool beyond =
          c::stale_maximum && ask && __any_sync(~0u, softmax.beyond(added, Element::largest_p));
      if (fresh || !beyond) break;
      multiply_scores(s, stage);  // rare: once more, with the true maximum
      fresh = true;
    }
    if constexpr (c::normalize_steps) multiply_by_sum(o, softmax.sum);
    softmax.add(added);
    if constexpr (c::dropout) {
      dropout.apply<m_tiles, n_tiles>(warp_row, first, lane,
                                      [&](int m, int n, int e) { s[m][n][e] = 0; });
    }
#pragma unroll
    for (int n = 0; n < n_tiles; n += 2) {
#pragma unroll
      for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = &s[m][n + i / 2][i % 2 * 2];
          p_packed[n / 2][m][i] = Element::pack(pair[0], pair[1]);
        }
      }
    }
  }
  __device__ void renew_maximum(const float (&s)[m_tiles][n_tiles][4]) {
    if constexpr (c::normalize_steps) {
      float nothing[m_tiles][1][4] = {};  // O is rescaled with the sum that multiplies it
      softmax.update_maximum(s, nothing, factor);
    } else {
      softmax.update_maximum(s, o, factor);
    }
    if (c::stale_maximum) unseen = __any_sync(~0u, softmax.has_unseen());
  }

  // Two groups of warps take turns: while one multiplies, the other exponentiates. A scheduler of
  // the multiprocessor has one warp of each, which left alone would do the same thing at the same
  // time. With one group, it is two blocks of a multiprocessor that fill each other's gaps.
  __device__ void take_turn(int index, u32 stage) {
    if constexpr (c::groups == 2) {
      ptx::barrier_sync<threads>(1 + group);
    } else {
      ptx::cp_async_wait<ahead - 1>();
      __syncthreads();  // all see what this turn needs, and are done with the turn before
      load_ahead(index, stage);
    }
  }
  __device__ void pass_turn(int index, u32 stage) {
    if constexpr (c::groups == 2) {
      ptx::cp_async_wait<ahead - 2>();  // this thread's part of what the next turn needs
      ptx::barrier_arrive<threads>(1 + (group ^ 1));
      // Group 1 loads K, for it may still need the last one (see exponentiate) while group 0 goes
      // on. The last V but one is free when group 0 has passed: both have left the turn before this
      // one.
      load_ahead(index, stage);
    }
  }

  /// Step `index` in its turn: O += P V of the step before, S = Q K^T and P of this one.
  template <bool values, bool scores>
  __device__ void turn(int index, u32 stage) {
    float s[m_tiles][n_tiles][4];
    if constexpr (values) multiply_values(before(stage));
    if constexpr (values && c::normalize_steps) divide_by_sum(o, softmax.sum);
    if constexpr (scores) multiply_scores(s, stage);
    pass_turn(index, stage);
    if constexpr (scores) {
      if (index >= own.full_begin && index < own.full_end) {
        exponentiate<false>(s, index * c::keys + warp * warp_key_step, stage);
      } else {
        exponentiate<true>(s, index * c::keys + warp * warp_key_step, stage);
      }
    }
  }

  __device__ void run() {
    u32 stage = stage_bytes;
#pragma unroll
    for (int i = -ahead; i < 0; ++i, stage = after(stage)) load_ahead(all.begin + i, stage);
    ptx::cp_async_wait<ahead - 1>();
    __syncthreads();
    load_query_slices();  // they came with the first keys
    if (c::groups == 2 && group == 1) ptx::barrier_arrive<threads>(1);
    for (int index = all.begin; index <= all.end; ++index, stage = after(stage)) {
      take_turn(index, stage);
      if (index > own.begin && index < own.end) {
        turn<true, true>(index, stage);
      } else if (index == own.begin && index < own.end) {
        turn<false, true>(index, stage);
      } else if (index > own.begin && index == own.end) {
        turn<true, false>(index, stage);
      } else {
        turn<false, false>(index, stage);
      }
    }
    if (c::groups == 2 && group == 0) ptx::barrier_sync<threads>(1);  // nobody is left at a barrier
    // A warp's rows of O take the place of its rows of Q, where they are as wide.
    if constexpr (depth != width) __syncthreads();
    finish();
  }
  __device__ void load_query_slices() {
#pragma unroll
    for (int slice = 0; slice < c::query_slices; ++slice) load_query_slice(q[slice], slice);
  }

  /// O := O / l, LSE = m + log l (lines 12 to 15), with the sink as one more key without a value.
  __device__ void finish() {
    if constexpr (c::normalize_steps) multiply_by_sum(o, softmax.sum);
    if constexpr (c::warps_split_keys) {
      join_warps<c::warps>(shared, warp, lane, softmax, o);
      if (warp > 0) return;
    }
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = warp_row + 16 * m + 8 * h + lane / 4;
        float maximum = softmax.maximum[m][h];
        float sum = quad_sum(softmax.sum[m][h]);
        float scale = sum > 0 ? 1 : 0;
        if constexpr (c::sinks != Number::none && !c::split) {
          const float sink =
              log2_e * Format<c::sinks>::load(p.sinks.data, place.head * p.sinks.head);
          const float larger = fmaxf(maximum, sink);
          const float used = Softmax::finite(larger);
          scale *= ptx::exp2(maximum - used);
          sum = sum * ptx::exp2(maximum - used) + ptx::exp2(sink - used + Element::headroom);
          maximum = larger;
        }
        const bool none = sum == 0;  // not so where a score is NaN, which the maximum passes over
        float lse =
            none ? minus_infinity : (maximum - Element::headroom + ptx::log2(sum)) * (1 / log2_e);
        scale = none ? 0 : scale * (c::dropout ? p.keep_scale : 1) * ptx::reciprocal(sum);
        if (row >= place.rows.length) {
          scale = 0;
          lse = c::split ? kernel::unused_row : minus_infinity;
        }
#pragma unroll
        for (int n = 0; n < o_tiles; ++n) {
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) o[m][n][e] *= scale;
        }
        if (__any_sync(~0u, scale == 0)) clear_row(m, h, scale == 0);
        if (lane % 4 == 0 && row < place.rows.extent && blockIdx.z == 0) store_lse(row, lse);
      }
    }
    if constexpr (c::split) {
      store_partial();
    } else {
      store_out();
    }
  }

  /// What a row without keys holds may be NaN: 0 x NaN of V.
  __device__ void clear_row(int m, int h, bool empty) {
    asm volatile("");  // keeps this a branch: selecting costs each row an instruction a number
#pragma unroll
    for (int n = 0; n < o_tiles; ++n) {
#pragma unroll
      for (int e = 2 * h; e < 2 * h + 2; ++e) o[m][n][e] = empty ? 0 : o[m][n][e];
    }
  }

  __device__ long long partial_row(int row) const {
    const long long in_split =
        c::packed_q ? place.head * p.rows.tokens + place.rows.begin + row
                    : (static_cast<long long>(place.sequence) * p.heads_q.value + place.head) *
                              p.rows.seqlen +
                          row;
    return blockIdx.y * p.partial_rows + in_split;
  }

  __device__ void store_lse(int row, float lse) const {
    if constexpr (c::split) {
      p.partial_lse[partial_row(row)] = lse;
    } else if (p.lse.data != nullptr) {
      static_cast<float*>(p.lse.data)[place.sequence * p.lse.batch + place.head * p.lse.head +
                                      (place.rows.begin + row) * p.lse.row] = lse;
    }
  }

  __device__ void store_partial() const {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = warp_row + 16 * m + 8 * h + lane / 4;
        if (row >= place.rows.extent) continue;
        float* to =
            p.partial_out + partial_row(row) * c::head_dim_v + first_value_column() + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < c::value_columns / 8; ++n) {
          *reinterpret_cast<float2*>(to + 8 * n) = {o[m][n][2 * h], o[m][n][2 * h + 1]};
        }
      }
    }
  }

  __device__ void store_out() const {
    const long long first = place.rows.begin + warp_row;
    char* to =
        static_cast<char*>(p.out.data) + 2 * (place.sequence * p.out.batch + first * p.out.row +
                                              place.head * p.out.head + first_value_column());
    store_rows<Element, OutTile, c::value_columns, c::alignment>(
        shared + warp * warp_row_step * OutTile::row_bytes, o, lane, to, 2 * p.out.row,
        place.rows.extent - warp_row);
  }
};

}  // namespace fa::sm80

extern "C" __global__ void __launch_bounds__(fa::sm80::threads, fa::config::min_blocks)
    fa_sm80_forward(const __grid_constant__ fa::kernel::ForwardParams p) {
  using namespace fa::sm80;
  extern __shared__ __align__(128) char shared[];
  const int tiles = c::serial_rows ? p.row_tiles.value : 1;  // of this block
  for (int tile = 0; tile < tiles; ++tile) {
    const int block = static_cast<int>(blockIdx.x);
    const int index =
        c::packed_q ? tile * static_cast<int>(gridDim.x) + block : block * tiles + tile;
    const Place place = find_place<rows, c::packed_q, c::used_q>(p, p.rows, p.heads_q, index);
    if (place.sequence < 0 || place.row >= place.rows.extent) return;
    Side keys{0, 0, 0};
    if (place.sequence < p.batch) {  // else tokens behind the last sequence
      keys = side_of<c::packed_k, c::used_k>(p.keys, place.sequence, p.batch);
    }
    if (tile > 0) __syncthreads();  // all have left the shared memory of the tile before
    const u32 base = fa::ptx::shared_address(shared);
    Forward(p, place, keys, base).run();
  }
}
