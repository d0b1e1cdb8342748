// Tiles of the backward kernel on their way into shared memory: K and V of the block once, Q, dO
// and their statistics for each step.
#pragma once

#include "sm80/backward_memory.cuh"
#include "tile/copy.cuh"
#include "tile/rows.cuh"

namespace fa::sm80 {

/// The work of a step: rows of a sequence, of one of the heads that share the keys.
struct Step {
  int row;
  int head;
};

/// Starts to load K and V of a place among the keys.
template <class S>
__device__ void load_keys(const kernel::Operands& operands, const Place& place, u32 shared) {
  using C = S::Config;
  TileReader<typename S::KeyTile, C::keys, C::head_dim, S::threads, C::alignment> k(
      row_at(operands.k, place, place.row), 2 * operands.k.row);
  TileReader<typename S::ValueTile, C::keys, C::head_dim_v, S::threads, C::alignment> v(
      row_at(operands.v, place, place.row), 2 * operands.v.row);
  const int count = place.rows.length - place.row;
  k.load(shared, count);
  v.load(shared + BackwardMemory<S>::value_at, count);
}

/// Loads what the steps of a block work on, one after the other.
template <class S>
struct StepReader {
  using C = S::Config;
  using Memory = BackwardMemory<S>;

  const kernel::BackwardParams& p;
  const Place query;       ///< the sequence's rows, of the block's first head
  const long long padded;  ///< the first of these rows among the padded ones
  TileReader<typename S::QueryTile, C::rows, C::head_dim, S::threads, C::alignment> q;
  TileReader<typename S::DoutTile, C::rows, C::head_dim_v, S::threads, C::alignment> dout;

  __device__ StepReader(const kernel::BackwardParams& params, const Place& rows,
                        long long padded_begin)
      : p(params),
        query(rows),
        padded(padded_begin),
        q(row_at(p.operands.q, query, 0), 2 * p.operands.q.row),
        dout(row_at(p.dout, query, 0), 2 * p.dout.row) {}

  __device__ void begin_at(int row) {
    q.from += row * q.stride;
    dout.from += row * dout.stride;
  }

  /// The heads of a tile of rows follow each other: what all blocks of these keys' heads work on at
  /// a time is then a small part of Q, dO and dQ, and stays in L2.
  __device__ Step after(const Step& step) const {
    if (step.head + 1 < p.part_heads) return {step.row, step.head + 1};
    return {step.row + C::rows, 0};
  }

  /// Starts to load the next step's tiles. `stage`: the place of a step in shared memory.
  __device__ void load(const Step& step, u32 stage) {
    const kernel::Walk q_walk = p.q_walk, dout_walk = p.dout_walk;
    q.load(stage, query.rows.length - step.row);
    dout.load(stage + Memory::dout_at, query.rows.length - step.row);
    const bool last = step.head + 1 == p.part_heads;
    q.from += last ? q_walk.to_rows : q_walk.to_head;
    dout.from += last ? dout_walk.to_rows : dout_walk.to_head;
    const long long at = (query.head + step.head) * p.padded_rows + padded + step.row;
    constexpr int chunks = Memory::statistic_chunks;
    if (const int i = threadIdx.x; i < 2 * chunks) {
      const float* from = (i < chunks ? p.lse_2 : p.delta) + at + i % chunks * 4;
      ptx::cp_async<16>(stage + Memory::lse_at + 16 * i, from, true);
    }
    ptx::cp_async_commit();
  }
};

/// A barrier of all threads. A row that sees no key has no gradients, whatever its dO holds: each
/// thread looks at the LSE that it copied itself, which it need not wait for. Where all rows see
/// all keys only a bias can leave one without (looking costs up to 8% of the pass).
template <class S>
__device__ void meet_and_clear_empty_rows(u32 stage, bool all_seen) {
  using C = S::Config;
  using Memory = BackwardMemory<S>;
  using DoutTile = S::DoutTile;
  if (C::bias == Number::none && all_seen) {
    __syncthreads();
    return;
  }
  const u32 lse = stage + Memory::lse_at;
  bool empty = false;
  if (const int i = threadIdx.x; i < Memory::statistic_chunks) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      empty = empty || ptx::load_float(lse + 16 * i + 4 * e) == -ptx::minus_infinity;
    }
  }
  if (!__syncthreads_or(empty)) return;
  for (int i = threadIdx.x; i < C::rows * DoutTile::chunks; i += S::threads) {
    const int row = i / DoutTile::chunks;
    if (ptx::load_float(lse + 4 * row) == -ptx::minus_infinity) {
      ptx::store_shared(stage + Memory::dout_at + DoutTile::offset(row, i % DoutTile::chunks),
                        uint4{0, 0, 0, 0});
    }
  }
  __syncthreads();
}

}  // namespace fa::sm80
