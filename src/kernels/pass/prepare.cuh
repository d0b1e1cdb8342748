// Before the main kernel of a backward pass, for each tile of query rows: delta = dO . O - dLSE
// (line 4 of Algorithm 2), LSE in powers of 2 with +inf where a row sees no key, so that its P is
// 0, and dQ's sum set to 0, but where the main kernel does without. For float16 also how large dS
// may become. Such a row's dO counts for nothing, whatever it holds; with a finite sink its dLSE
// does.
#pragma once

#include "tile/mask.cuh"
#include "tile/padded.cuh"
#include "tile/row_products.cuh"
#include "tile/rows.cuh"

namespace fa::pass {

using namespace fa::tile;

/// S: the family's shapes (sm80/backward_shapes.cuh is one).
template <class S>
struct Prepare {
  using C = S::Config;
  using Params = kernel::BackwardParams;

  /// All of them, also those of rows that no block prepares: where lengths on the device overlap,
  /// the main kernel may come to such rows, and must not wait for what the workspace held.
  static __device__ void clear_turns(const Params& p) {
    const long long stride = static_cast<long long>(gridDim.x) * S::threads;
    for (long long i = static_cast<long long>(blockIdx.x) * S::threads + threadIdx.x;
         i < p.dq_turns_count; i += stride) {
      p.dq_turns[i] = 0;
    }
  }

  static __device__ void run(const Params& p) {
    clear_turns(p);
    const Place place =
        find_place<C::rows, C::packed_q, C::used_q>(p.order, p.rows, static_cast<int>(blockIdx.x));
    if (place.sequence < 0 || place.sequence == p.order.batch || place.row >= place.rows.extent)
      return;
    const long long padded = padded_row_begin<C>(p.rows, place.sequence, place.rows) + place.row;
    const long long statistics = place.head * p.padded_rows + padded;

    if constexpr (!C::first_stores && !C::clears_sums) {
      float4* sum = reinterpret_cast<float4*>(p.dq_sum + statistics * S::depth);
      for (int i = threadIdx.x; i < C::rows * S::depth / 4; i += S::threads) sum[i] = {0, 0, 0, 0};
    }

    // A thread's rows are all asked for before the first of them is waited for: one after the other
    // they took 5 to 7 us more, of 65 for 16k tokens with 16 heads of 96 numbers on an H200.
    constexpr int lanes = row_lanes(C::head_dim_v, S::threads, C::rows);
    constexpr int groups = S::threads / lanes, turns = C::rows / groups;
    static_assert(C::rows % groups == 0);
    const int lane = threadIdx.x % lanes;
    const int first = place.row + threadIdx.x / lanes;
    RowProducts<C, lanes> dout[turns];
    float lse[turns];
    if (place.rows.length > 0) {
#pragma unroll
      for (int turn = 0; turn < turns; ++turn) {
        const int row = min(first + turn * groups, place.rows.length - 1);
        lse[turn] = statistic(p.operands.lse, place, row);
        dout[turn].add(row_at(p.dout, place, row), row_at(p.operands.out, place, row), lane);
      }
    }

    const Side keys = side_of<C::packed_k, C::used_k>(p.keys, place.sequence, p.order.batch);
    float largest = 0, largest_dlse = 0;
#pragma unroll
    for (int turn = 0; turn < turns; ++turn) {
      const int row = first + turn * groups;
      dout[turn].join();
      const auto seen = visible_keys<C::window_left, C::window_right>(
          p.window, row, place.rows.length, keys.length);
      const bool absent = row >= place.rows.length || lse[turn] == ptx::minus_infinity;
      const bool empty = absent || seen.begin >= seen.end;
      float delta = empty ? 0 : dout[turn].ab;
      if (!empty) largest = fmaxf(largest, dout[turn].aa);
      if (lane > 0) continue;
      if (p.dlse.data != nullptr && !absent) {
        const float dlse = statistic(p.dlse, place, row);
        // mutant "CUDA: dLSE" of emulated: dlse => 0.0f
        delta -= dlse;
        if (!empty) largest_dlse = fmaxf(largest_dlse, fabsf(dlse));
      }
      const long long at = statistics + row - place.row;
      p.lse_2[at] = empty ? -ptx::minus_infinity : lse[turn] * ptx::log2_e;
      p.delta[at] = delta;
    }
    if constexpr (S::Element::scales_gradients) {
      raise_range(range_of(p, Range::dout, place.sequence, place.head), largest);
      raise_range(range_of(p, Range::dlse, place.sequence, place.head), largest_dlse);
    }
  }
};

}  // namespace fa::pass
