// Which query rows see the keys of a block of the backward pass, and in which order blocks add to
// their dQ.
#pragma once

#include "common/mask.h"
#include "common/params.h"
#include "tile/mask.cuh"
#include "tile/place.cuh"

namespace fa::sm80 {

using namespace fa::tile;

/// Rows [begin, end) that see a key.
struct RowsOfKey {
  int begin, end;
};

/// The rows of one sequence that see a block's keys.
template <class C>
struct RowsInSight {
  const kernel::Window& window;
  int q_len, k_len;
  int first_key;            ///< of the block
  int first_row, last_row;  ///< of the tiles that see some of the keys; none: last < first

  /// The rows that see the first of the keys begin first, those that see the last end last.
  __device__ RowsInSight(const kernel::Window& sight, int rows, int keys, int block_key)
      : window(sight), q_len(rows), k_len(keys), first_key(block_key), first_row(0), last_row(-1) {
    const int last = min(first_key + C::keys, k_len) - 1;
    if (last < first_key) return;
    const int begin = rows_of(first_key).begin, end = rows_of(last).end;
    if (begin >= end) return;
    first_row = begin / C::rows * C::rows;
    last_row = (end - 1) / C::rows * C::rows;
  }

  __device__ RowsOfKey rows_of(int key) const {
    if (key >= k_len) return {q_len, 0};
    const auto range = mask::row_range(key, q_len, k_len, C::window_left ? window.left : -1,
                                       C::window_right ? window.right : -1);
    return {static_cast<int>(range.begin < q_len ? range.begin : q_len),
            static_cast<int>(range.end)};
  }

  __device__ mask::KeyRange visible(int row) const {
    return visible_keys<C::window_left, C::window_right>(window, row, q_len, k_len);
  }

  /// Whether all rows of a tile see all of the block's keys.
  __device__ bool see_all(int tile_row) const {
    if (C::all_seen) return true;
    return visible(tile_row).end >= first_key + C::keys &&
           visible(tile_row + C::rows - 1).begin <= first_key;
  }

  /// The blocks of the keys that a tile of rows sees add to its dQ in order, that of the last keys
  /// first: under a mask from the right it comes a step earlier to each tile than the next one. It
  /// also is the first to run (Backward::run), so that no block waits for one that comes later.
  __device__ int turn_of(int tile_row) const {
    const long long end = visible(min(tile_row + C::rows, q_len) - 1).end;
    return static_cast<int>((end - 1) / C::keys) - first_key / C::keys;
  }
};

}  // namespace fa::sm80
