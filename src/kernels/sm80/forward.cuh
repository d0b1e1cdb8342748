// The forward pass, Algorithm 1 of FlashAttention-2 (Dao 2023, arXiv:2307.08691), on mma.sync and
// cp.async: every GPU since A100. docs/kernels/sm80-forward.md walks through it.
//
// A block owns `rows` query rows of one head and walks over the keys they see; the blocks are
// parallel over query rows, heads and sequences (3.2 of the paper). Its warps split the rows, K and
// V are shared (3.3). O is divided by the sum once, at the end (3.1). K and V arrive in shared
// memory `keys` at a time.
#pragma once

#include "common/config.h"
#include "common/padding.h"
#include "ptx/barrier.cuh"
#include "tile/dropout.cuh"
#include "tile/form_scores.cuh"
#include "tile/key_reader.cuh"
#include "tile/mask.cuh"
#include "tile/output.cuh"
#include "tile/place.cuh"
#include "tile/ring.cuh"
#include "tile/rows.cuh"
#include "tile/score.cuh"
#include "tile/softmax.cuh"
#include "tile/steps.cuh"
#include "tile/store.cuh"

namespace fa::sm80 {

using namespace fa::tile;

/// How the plan cuts the kernel (plan/cuda/sm80/forward_tiles.hpp says what each number does).
struct ForwardConfig : kernel::ProblemConfig {
  static constexpr int groups = 1;
  static constexpr int query_slices = 0;
  static constexpr bool stale_maximum = false;
  static constexpr bool split = false;  ///< the keys are shared out between blocks
};

using kernel::pad16;

template <class C>
struct Forward {
  using Params = kernel::ForwardParams;
  using Element = Format<C::element>;

  static constexpr int threads = 32 * C::warps;
  static constexpr int copying_threads = threads / C::groups;  ///< of a tile of K or of V
  static constexpr int rows = C::warps * C::warp_rows;
  static constexpr int m_tiles = C::warp_rows / 16;
  static constexpr int n_tiles = C::keys / 8;
  static constexpr int depth = pad16(C::head_dim);       ///< of Q K^T
  static constexpr int width = pad16(C::value_columns);  ///< of V, as this block sees it
  static constexpr int o_tiles = width / 8;
  static constexpr int slices = depth / 16;

  using QueryTile = SharedTile<rows, depth>;
  using KeyTile = SharedTile<C::keys, depth>;
  using ValueTile = SharedTile<C::keys, width>;
  using OutTile = SharedTile<rows, width>;
  using Softmax = OnlineSoftmax<Element, m_tiles>;
  using Scores = float[m_tiles][n_tiles][4];

  template <typename Tile, int columns>
  using Reader =
      KeyReader<C::paged, Tile, C::keys, columns, copying_threads, C::alignment, C::groups == 1>;

  static constexpr int stage_bytes = KeyTile::bytes + ValueTile::bytes;
  using Stages = Ring<C::stages, stage_bytes>;

  const Params& p;
  const Place place;
  const int k_len;
  const u32 shared;  ///< [Q][stages of K, V]; O at the end
  const int lane = threadIdx.x % 32;
  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);  // uniform for the compiler too

  const int group = warp / (C::warps / C::groups);
  const int warp_row = place.row + warp * C::warp_rows;  ///< first of the warp, in the sequence
  const LaneAddress<QueryTile> query =
      rows_then_columns<QueryTile>(shared + warp * C::warp_rows * QueryTile::row_bytes, lane);
  const LaneAddress<KeyTile> key = columns_then_rows<KeyTile>(shared + QueryTile::bytes, lane);
  const LaneAddress<ValueTile> value =
      rows_then_columns<ValueTile>(shared + QueryTile::bytes + KeyTile::bytes, lane);

  const Steps all, own;  ///< of the block's rows and of the warp's
  Reader<KeyTile, C::head_dim> k;
  Reader<ValueTile, C::value_columns> v;
  KeptSlices<C::query_slices, m_tiles> q;
  float o[m_tiles][o_tiles][4] = {};
  KeptSlices<n_tiles / 2, m_tiles> probabilities;  ///< P of the last step, as operand A
  Softmax softmax;
  bool unseen = true;  ///< some row of the warp has not seen a key
  const Score<C> score;
  const Dropout<C::dropout> dropout;
  const float factor = Score<C>::factor(p.score);

  __device__ Forward(const Params& params, const Place& where, const Side& keys_side, u32 base)
      : p(params),
        place(where),
        k_len(keys_side.length),
        shared(base),
        all(steps_of<C>(p, place, k_len, split(), place.row, rows)),
        own(steps_of<C>(p, place, k_len, split(), warp_row, C::warp_rows)),
        k(p.operands.k, 0, {p, place, keys_side, all.begin * C::keys}),
        v(p.operands.v, first_value_column<C>(), {p, place, keys_side, all.begin * C::keys}),
        score(p.score, place, k_len),
        dropout(p.dropout, p.heads.query, place) {
    TileReader<QueryTile, rows, C::head_dim, threads, C::alignment>(
        row_at(p.operands.q, place, place.row), 2 * p.operands.q.row)
        .load(shared, place.rows.length - place.row);
  }

  __device__ TileRows warp_rows() const { return {place, warp * C::warp_rows}; }
  static __device__ int split() { return static_cast<int>(blockIdx.y); }
  __device__ mask::KeyRange visible(int row) const {
    return visible_keys<C::window_left, C::window_right>(p.window, row, place.rows.length, k_len);
  }

  /// Starts the copies for iteration `index + ahead`: K of its own step, V of the step before it.
  static constexpr int ahead = C::stages - 1;
  __device__ void load_ahead(int index, u32 stage) {
    const int step = index + ahead;
    const u32 at = shared + QueryTile::bytes;
    if (step < all.end && (C::groups == 1 || group == 1)) {
      k.load(at + Stages::before(stage), k_len - step * C::keys);
    }
    if (step > all.begin && step <= all.end && (C::groups == 1 || group == 0)) {
      v.load(at + Stages::before(Stages::before(stage)) + KeyTile::bytes,
             k_len - (step - 1) * C::keys);
    }
    ptx::cp_async_commit();
  }

  /// S = Q K_j^T (line 8).
  __device__ void multiply_scores(Scores& s, u32 stage) const {
    clear(s);
    multiply<Element, Lies::along_k, Lies::along_k, slices>(s, query, 0, key, stage, q);
  }

  /// O += P V_j (line 10).
  __device__ void multiply_values(u32 stage) {
    multiply<Element, Lies::across_k>(o, probabilities, value, stage);
  }

  /// P = exp(S - m) with the running maximum and sum (line 9).
  template <bool masked>
  __device__ void exponentiate(Scores& s, int first, u32 stage) {
    float added[m_tiles][2];
    bool fresh = !C::stale_maximum || unseen;
    for (;;) {
      if constexpr (masked || !Score<C>::none) {
        form_scores<C, masked>(
            s, score, warp_rows(), first, lane, [&](int row) { return visible(row); },
            BiasInMemory<C>{score});
      }
      if (fresh) renew_maximum(s);
      softmax.exponentiate(s, added, factor);
      // Also asked after a fresh maximum, which needs no answer, where that spares a branch between
      // exponentials and sums (+6% at 64); from 128 on these had better stay apart, for the
      // registers (+7%).
      const bool ask = depth <= 96 || !fresh;
      const bool beyond =
          C::stale_maximum && ask && __any_sync(~0u, softmax.beyond(added, Element::largest_p));
      if (fresh || !beyond) break;
      multiply_scores(s, stage);  // rare: once more, with the true maximum
      fresh = true;
    }
    softmax.add(added);
    if constexpr (C::dropout) {
      dropout.template apply<m_tiles, n_tiles>(warp_row, first, lane,
                                               [&](int m, int n, int e) { s[m][n][e] = 0; });
    }
    probabilities = as_left<Element>(s);
  }
  __device__ void renew_maximum(const Scores& s) {
    softmax.update_maximum(s, o, factor);
    if (C::stale_maximum) unseen = __any_sync(~0u, softmax.has_unseen());
  }

  // Two groups of warps take turns: while one multiplies, the other exponentiates. A scheduler of
  // the multiprocessor has one warp of each, which left alone would do the same thing at the same
  // time. With one group, it is two blocks of a multiprocessor that fill each other's gaps.
  __device__ void take_turn(int index, u32 stage) {
    if constexpr (C::groups == 2) {
      ptx::barrier_sync<threads>(1 + group);
    } else {
      ptx::cp_async_wait<ahead - 1>();
      __syncthreads();  // all see what this turn needs, and are done with the turn before
      load_ahead(index, stage);
    }
  }
  __device__ void pass_turn(int index, u32 stage) {
    if constexpr (C::groups == 2) {
      ptx::cp_async_wait<ahead - 2>();  // this thread's part of what the next turn needs
      ptx::barrier_arrive<threads>(1 + (group ^ 1));
      // Group 1 loads K over that of the step before, which it may have read again (exponentiate).
      // Group 0 loads V over that of two steps before, which both groups are done with.
      load_ahead(index, stage);
    }
  }

  /// Step `index` in its turn: O += P V of the step before, S = Q K^T and P of this one.
  template <bool values, bool scores>
  __device__ void turn(int index, u32 stage) {
    float s[m_tiles][n_tiles][4];
    if constexpr (values) multiply_values(Stages::before(stage));
    if constexpr (scores) multiply_scores(s, stage);
    pass_turn(index, stage);
    if constexpr (scores) {
      if (index >= own.full_begin && index < own.full_end) {
        exponentiate<false>(s, index * C::keys, stage);
      } else {
        exponentiate<true>(s, index * C::keys, stage);
      }
    }
  }

  __device__ void attend() {
    u32 stage = stage_bytes;
#pragma unroll
    for (int i = -ahead; i < 0; ++i, stage = Stages::after(stage)) load_ahead(all.begin + i, stage);
    ptx::cp_async_wait<ahead - 1>();
    __syncthreads();
    q.load(query, 0);  // they came with the first keys
    if (C::groups == 2 && group == 1) ptx::barrier_arrive<threads>(1);
    for (int index = all.begin; index <= all.end; ++index, stage = Stages::after(stage)) {
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
    if (C::groups == 2 && group == 0) ptx::barrier_sync<threads>(1);  // no warp is left there
    // A warp's rows of O take the place of its rows of Q, where they are as wide.
    if constexpr (depth != width) __syncthreads();
    finish();
  }

  __device__ void finish() {
    const auto partial_row = [&](HeadRow at) { return split_row<C>(p, place, split(), at); };
    end_rows<C>(p, place, warp_rows(), lane, softmax, o, C::split, [&](HeadRow at, float lse) {
      if (blockIdx.z != 0) return;
      if constexpr (C::split) {
        p.partial.lse[partial_row(at)] = lse;
      } else {
        store_lse(p, place, at, lse);
      }
    });
    if constexpr (C::split) {
      store_partial<C, C::value_columns>(p.partial, place, warp_rows(), first_value_column<C>(),
                                         lane, o, partial_row);
    } else {
      const char* to = row_at(p.operands.out, place, warp_row) + 2 * first_value_column<C>();
      store_rows<Element, OutTile, C::value_columns, C::alignment>(
          shared + warp * C::warp_rows * OutTile::row_bytes, o, lane, const_cast<char*>(to),
          2 * p.operands.out.row, place.rows.extent - warp_row);
    }
  }

  static __device__ void run(const Params& p) {
    const Place place =
        find_place<rows, C::packed_q, C::used_q>(p.order, p.rows, static_cast<int>(blockIdx.x));
    if (place.sequence < 0 || place.row >= place.rows.extent) return;
    Side keys{0, 0, 0};
    if (place.sequence < p.order.batch) {  // else tokens behind the last sequence
      keys = side_of<C::packed_k, C::used_k>(p.keys, place.sequence, p.order.batch);
    }
    Forward(p, place, keys, ptx::shared_address(ptx::shared_memory())).attend();
  }
};

}  // namespace fa::sm80
