// Which query rows see the keys of a block of the backward pass, and in which order blocks add to
// their dQ.
#pragma once

#include "common/mask.h"
#include "common/params.h"
#include "tile/mask.cuh"
#include "tile/place.cuh"

namespace fa::tile {

/// Rows [begin, end).
struct RowSpan {
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

  /// The rows that see a key.
  __device__ RowSpan rows_of(int key) const {
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

  /// The tiles among those of first_row to last_row for which see_all holds, and those that end
  /// with the sequence before they would: the rows that are missing see nothing anyway.
  __device__ RowSpan full_tiles() const {
    const int end = last_row + C::rows;
    if (C::all_seen) return {first_row, end};
    const int last_key = first_key + C::keys - 1;
    if (last_key >= k_len) return {end, end};
    const int first = (rows_of(last_key).begin + C::rows - 1) / C::rows * C::rows;
    const int behind = rows_of(first_key).end;
    const int full_end = behind >= q_len ? end : behind / C::rows * C::rows;
    return first < full_end ? RowSpan{first, full_end} : RowSpan{end, end};
  }

  /// Whether rows of a tile may see no key at all: the first or the last one then sees none.
  __device__ bool some_see_none(int tile_row) const {
    if constexpr (!C::window_left && !C::window_right) return false;
    const auto first = visible(tile_row), last = visible(min(tile_row + C::rows, q_len) - 1);
    return first.begin >= first.end || last.begin >= last.end;
  }

  /// The blocks of the keys that a tile of rows sees add to its dQ in order, that of the last keys
  /// first: under a mask from the right it comes a step earlier to each tile than the next one. Its
  /// tile of keys also is the first to be handed out (Longest::last), so that no block waits for
  /// one that comes later.
  __device__ int turn_of(int tile_row) const {
    const long long end = visible(min(tile_row + C::rows, q_len) - 1).end;
    return static_cast<int>((end - 1) / C::keys) - first_key / C::keys;
  }
};

}  // namespace fa::tile
