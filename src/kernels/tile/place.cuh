// Which rows of which sequence and head a block works on, and which keys they see.
#pragma once

#include "common/params.h"

namespace fa::tile {

using kernel::Longest;

/// Rows or keys of one sequence: where they begin in the tensor, how many there are, how many
/// count.
struct Side {
  long long begin;
  int extent;
  int length;
};

template <bool packed, bool used>
__device__ Side side_of(const kernel::Lengths& lengths, int sequence, int batch) {
  Side side{0, lengths.seqlen, 0};
  if constexpr (packed) {
    const auto clamped = [&](long long x) {
      return x < 0 ? 0 : x > lengths.tokens ? lengths.tokens : x;
    };
    // Behind the last sequence lie tokens of none, which count as one more that uses no row.
    side.begin = clamped(lengths.cu_seqlens[sequence]);
    const long long end =
        sequence < batch ? clamped(lengths.cu_seqlens[sequence + 1]) : lengths.tokens;
    const long long extent = end > side.begin ? end - side.begin : 0;
    const bool within = sequence == batch || extent <= lengths.seqlen;
    side.extent = static_cast<int>(within ? extent : lengths.seqlen);
    if (sequence == batch) return side;
  }
  side.length = side.extent;
  if constexpr (used) {
    const int count = lengths.seqused[sequence];
    // mutant "CUDA: seqused" of emulated: count < side.extent => false
    side.length = count < 0 ? 0 : count < side.extent ? count : side.extent;
  }
  return side;
}

struct Place {
  int sequence;  ///< -1: nothing to do
  int head;
  int row;  ///< first row, within the sequence
  Side rows;
};

/// A number that is known when the kernel is compiled, as a Divisor is before its launch.
template <int number>
struct Fixed {
  static constexpr int value = number;
  friend __device__ int operator/(int n, Fixed) { return n / number; }
};

/// The tile of `tile_rows` rows, or keys, that block `index` of a launch takes. `in_turn`: launches
/// take one sequence or head after the other (Order::first_sequence); packed ones never do. Rows: a
/// Fixed or a Divisor.
template <bool packed, bool used, Longest longest = Longest::last, bool in_turn = false,
          typename Rows>
__device__ Place find_place(const kernel::Order& order, const kernel::Lengths& side, int index,
                            const Rows& tile_rows) {
  if constexpr (!packed) {
    const auto [head, tile] = kernel::ordered_tile(order, index, longest);
    const int sequence = head / order.heads;
    Place place{sequence, head - sequence * order.heads.value, 0, {}};
    if constexpr (in_turn) {
      place.sequence += order.first_sequence;
      place.head += order.first_head;
    }
    place.row = tile * tile_rows.value;
    place.rows = side_of<false, used>(side, place.sequence, order.batch);
    return place;
  } else {
    // A tile's heads follow each other, so that what runs at the end is of the last sequences,
    // short ones more often than not; head after head it would be the longest of a whole head.
    int tile = index / order.heads;
    const int head = index - tile * order.heads.value;
    // Tiles are numbered through all sequences, and every warp sums them up, 128 sequences at a
    // time: a lane's four loads wait for memory together.
    constexpr int of_lane = 4;
    const int lane = threadIdx.x % 32;
    for (int base = 0; base <= order.batch; base += 32 * of_lane) {
      int tiles[of_lane], own = 0;
#pragma unroll
      for (int i = 0; i < of_lane; ++i) {
        const int sequence = base + of_lane * lane + i;
        Side rows{0, 0, 0};
        if (sequence <= order.batch) rows = side_of<true, used>(side, sequence, order.batch);
        tiles[i] = (rows.extent + tile_rows.value - 1) / tile_rows;
        own += tiles[i];
      }
      int sum = own;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(~0u, sum, step);
        if (lane >= step) sum += other;
      }
      const unsigned found = __ballot_sync(~0u, tile < sum);
      if (found == 0) {
        tile -= __shfl_sync(~0u, sum, 31);
        continue;
      }
      const int owner = __ffs(found) - 1;
      tile -= __shfl_sync(~0u, sum - own, owner);
      int sequence = base + of_lane * owner, count = 0;
#pragma unroll
      for (const int own_tiles : tiles) {
        const int next = __shfl_sync(~0u, own_tiles, owner);
        if (count == 0 && tile >= next) {
          tile -= next;
          ++sequence;
        } else if (count == 0) {
          count = next;
        }
      }
      if constexpr (longest == Longest::last) tile = count - 1 - tile;
      return {sequence, head, tile * tile_rows.value,
              side_of<true, used>(side, sequence, order.batch)};
    }
    return {-1, 0, 0, {}};
  }
}
template <int tile_rows, bool packed, bool used, Longest longest = Longest::last,
          bool in_turn = false>
__device__ Place find_place(const kernel::Order& order, const kernel::Lengths& side, int index) {
  return find_place<packed, used, longest, in_turn>(order, side, index, Fixed<tile_rows>());
}

}  // namespace fa::tile
