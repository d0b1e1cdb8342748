// Shares of a forward pass that few query rows make: each has as many steps over keys as the
// others, however long the sequences are. A tile whose keys lie in several shares is joined by
// pass/join_shares.cuh.
#pragma once

#include "common/params.h"
#include "tile/steps.cuh"

namespace fa::tile {

/// The shares that a tile's steps lie in, and the one of them in hand.
struct Sharers {
  int first, last;
  int own;

  __device__ bool alone() const { return first == last; }
  /// Where the results of this share wait to be joined: a share has at most one tile that began
  /// before it, and one that ends behind it.
  __device__ int place() const { return 2 * own + (own == first ? 1 : 0); }
};

/// A tile of query rows, and the steps [begin, end) of it that are in the share.
struct SharedSteps {
  Place place;
  Side keys;
  int begin, end;
  Sharers sharers;
};

/// One warp's way through shares, each behind the one before. Steps are numbered through all tiles:
/// those of a sequence follow each other, head by head.
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
  int count = 0;            ///< of shares
  int steps = 0, rest = 0;  ///< of each share; so many of them have one more
  int share = 0;            ///< in hand
  int at = 0, end = 0;      ///< what is left of it
  int first = 0;            ///< the sequence's first step
  int number = 0;           ///< of the sequence
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

  /// Counts the steps and the shares: all blocks come to the same numbers. Blocks have several
  /// shares each where these are long: some multiprocessors have more of the memory's bandwidth.
  __device__ void begin() {
    int own = 0;
#pragma unroll 4
    for (int base = 0; base < sequences(); base += 32)
      own += find(base + lane).weight(shares.heads);
#pragma unroll
    for (int step = 1; step < 32; step *= 2) own += __shfl_xor_sync(~0u, own, step);
    constexpr int least = 2, many = 32;  // steps: fewer are not worth a join; enough to be parted
    const int blocks = static_cast<int>(gridDim.x);
    count = own / (many * blocks) * blocks;  // else some blocks would have one more
    if (count > shares.most) count = shares.most;
    if (count < blocks) count = min(blocks, own / least);
    if (count < 1) count = own > 0 ? 1 : 0;
    if (count == 0) return;
    steps = own / count;
    rest = own - steps * count;
    sequence = find(0);
  }

  /// Takes a share: goes on to the sequence of its first step. Lengths that change while the kernel
  /// runs may leave none: then the share is empty.
  __device__ void take(int index) {
    share = index;
    at = begin_of(index);
    end = begin_of(index + 1);
    if (at - first < sequence.weight(shares.heads)) return;
    for (; number < sequences(); number += 32) {
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

  __device__ int begin_of(int index) const { return index * steps + min(index, rest); }
  __device__ int share_of(int step) const {
    const int longer = rest * (steps + 1);
    return step < longer ? step / (steps + 1) : rest + (step - longer) / steps;
  }

  /// The next of the share; false at its end.
  __device__ bool next(SharedSteps& found) {
    if (at >= end) return false;
    while (at - first >= sequence.weight(shares.heads)) {
      if (number >= sequences()) return false;
      first += sequence.weight(shares.heads);
      sequence = find(++number);
    }
    const int tile_steps = sequence.steps, tile = (at - first) / tile_steps;
    const int tile_begin = first + tile * tile_steps, from = at - tile_begin;
    const int taken = min(tile_steps - from, end - at);
    const int head = tile / sequence.tiles;
    found.place = sequence.place;
    found.place.head = head * shares.tile_heads;
    found.place.row = (tile - head * sequence.tiles) * shares.positions.value;
    found.keys = sequence.keys;
    found.begin = sequence.begin + from;
    found.end = found.begin + taken;
    found.sharers = {share, share, share};
    // mutant "CUDA: who shares a tile" of emulated: taken < tile_steps => false
    if (taken < tile_steps) {
      found.sharers.first = share_of(tile_begin);
      found.sharers.last = share_of(tile_begin + tile_steps - 1);
    }
    at += taken;
    return true;
  }
};

}  // namespace fa::tile
