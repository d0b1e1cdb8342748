// The rows of a tile, and the addresses of a tensor's rows in global memory: their one home.
#pragma once

#include "common/params.h"
#include "tile/place.cuh"

namespace fa::tile {

/// A row of a sequence, of one query head.
struct HeadRow {
  int head, row;
};

/// Rows of a tile of one head, from number `first` on.
struct TileRows {
  const Place& place;  ///< of the tile
  int first;

  __device__ HeadRow operator()(int i) const { return {place.head, place.row + first + i}; }
};

/// Rows of a tile of several heads, from number `first` on. The place's head is the first of these.
struct SideBySideRows {
  const Place& place;
  int first;
  const kernel::SideBySide& form;

  __device__ HeadRow operator()(int i) const {
    const int r = first + i, position = r / form.heads;
    return {place.head + r - position * form.heads.value,
            position < form.positions.value ? place.row + position : place.rows.extent};
  }
};

/// Row `row` of the tensor, of 16-bit elements; in a packed tensor counted from its first token.
__device__ inline const char* row_of(const kernel::View& view, const Place& place, int head,
                                     long long row) {
  return static_cast<const char*>(view.data) +
         2 * (place.sequence * view.batch + row * view.row + head * view.head);
}

/// Row `row` of the place's sequence and head.
__device__ inline const char* row_at(const kernel::View& view, const Place& place, long long row) {
  return row_of(view, place, place.head, place.rows.begin + row);
}

/// The float32 number of such a row of a head: LSE, or its gradient.
__device__ inline float& statistic_of(const kernel::View& view, const Place& place, int head,
                                      long long row) {
  return static_cast<float*>(view.data)[place.sequence * view.batch + head * view.head +
                                        (place.rows.begin + row) * view.row];
}
__device__ inline float& statistic(const kernel::View& view, const Place& place, long long row) {
  return statistic_of(view, place, place.head, row);
}

}  // namespace fa::tile
