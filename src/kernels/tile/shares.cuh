// Shares of a forward pass that few query rows make: each block gets as many steps over keys as
// the others, however long the sequences are. A tile whose keys lie in several blocks' shares is
// joined by pass/join_shares.cuh.
#pragma once

#include "common/params.h"
#include "tile/steps.cuh"

namespace fa::tile {

/// Blocks that share out a tile's keys: one where they are all one block's.
struct Sharers {
  int first, last;

  __device__ bool alone() const { return first == last; }
};

/// A tile of query rows, and the steps [begin, end) of it that are in the block's share.
struct SharedSteps {
  Place place;
  Side keys;
  int begin, end;
  Sharers sharers;
};

/// One warp's way through its block's share. Steps are numbered through all tiles: those of a
/// sequence follow each other, head by head.
template <class C>
struct ShareWalk {
  const kernel::ForwardParams& p;
  const kernel::Shares& shares;
  const int lane = threadIdx.x % 32;

  /// A sequence's tiles, which have a number of steps each: that of the steps that some of its rows
  /// see, or 1, since rows without keys are written, too.
  struct Sequence {
    Place place;
    Side keys;
    int begin;         ///< first of the steps
    int steps, tiles;  ///< tiles of a head

    __device__ int weight(int heads) const { return steps * tiles * heads; }
  };
  int at = 0, end = 0;  ///< what is left of the share
  int total = 0;        ///< steps of all blocks
  int blocks = 0;       ///< that have a share
  int first = 0;        ///< the sequence's first step
  int number = 0;       ///< of the sequence
  Sequence sequence{};

  __device__ ShareWalk(const kernel::ForwardParams& params, const kernel::Shares& of_blocks)
      : p(params), shares(of_blocks) {}

  __device__ int sequences() const { return p.order.batch + (C::packed_q ? 1 : 0); }

  __device__ Sequence find(int index) const {
    Sequence s{{-1, 0, 0, {0, 0, 0}}, {0, 0, 0}, 0, 1, 0};
    if (index >= sequences()) return s;
    s.place = {index, 0, 0, side_of<C::packed_q, C::used_q>(p.rows, index, p.order.batch)};
    if (index < p.order.batch) {  // else tokens behind the last sequence
      s.keys = side_of<C::packed_k, C::used_k>(p.keys, index, p.order.batch);
    }
    const Steps all = steps_of<C>(p, s.place, s.keys.length, 0, 0, s.place.rows.length);
    s.begin = all.begin;
    if (all.end > all.begin) s.steps = all.end - all.begin;
    s.tiles = (s.place.rows.extent + shares.positions.value - 1) / shares.positions;
    return s;
  }

  /// Goes to the share's first step. All blocks count the same sums.
  __device__ void begin() {
    int own = 0;
#pragma unroll 4
    for (int base = 0; base < sequences(); base += 32)
      own += find(base + lane).weight(shares.heads);
#pragma unroll
    for (int step = 1; step < 32; step *= 2) own += __shfl_xor_sync(~0u, own, step);
    total = own;
    const int most = total / shares.least_steps;
    blocks = most < static_cast<int>(gridDim.x) ? most : static_cast<int>(gridDim.x);
    if (blocks < 1) blocks = 1;
    const int block = static_cast<int>(blockIdx.x);
    if (block >= blocks || total == 0) return;
    at = static_cast<int>(static_cast<long long>(total) * block / blocks);
    end = static_cast<int>(static_cast<long long>(total) * (block + 1) / blocks);
    for (;; number += 32) {
      const int weight = find(number + lane).weight(shares.heads);
      int sum = weight;  // of this lane's sequence and those before
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(~0u, sum, step);
        if (lane >= step) sum += other;
      }
      const unsigned found = __ballot_sync(~0u, at < first + sum);
      if (found == 0) {
        first += __shfl_sync(~0u, sum, 31);
        continue;
      }
      const int owner = __ffs(found) - 1;
      first += __shfl_sync(~0u, sum - weight, owner);
      number += owner;
      break;
    }
    sequence = find(number);
  }

  __device__ int block_of(int step) const {
    return static_cast<int>((static_cast<long long>(step + 1) * blocks - 1) / total);
  }

  /// The next of the share; false at its end.
  __device__ bool next(SharedSteps& found) {
    if (at >= end) return false;
    while (at - first >= sequence.weight(shares.heads)) {
      first += sequence.weight(shares.heads);
      sequence = find(++number);
    }
    const int steps = sequence.steps, tile = (at - first) / steps;
    const int tile_begin = first + tile * steps, from = at - tile_begin;
    const int count = steps - from < end - at ? steps - from : end - at;
    const int head = tile / sequence.tiles;
    found.place = sequence.place;
    found.place.head = head * shares.tile_heads;
    found.place.row = (tile - head * sequence.tiles) * shares.positions.value;
    found.keys = sequence.keys;
    found.begin = sequence.begin + from;
    found.end = found.begin + count;
    found.sharers.first = found.sharers.last = static_cast<int>(blockIdx.x);
    // mutant "CUDA: who shares a tile" of emulated: count < steps => false
    if (count < steps) found.sharers = {block_of(tile_begin), block_of(tile_begin + steps - 1)};
    at += count;
    return true;
  }
};

/// Where a block's results for a tile wait that it shares with others: it has one that began before
/// its share, and one that ends behind it.
__device__ inline int place_of_share(const Sharers& sharers, int block) {
  return 2 * block + (block == sharers.first ? 1 : 0);
}

}  // namespace fa::tile
