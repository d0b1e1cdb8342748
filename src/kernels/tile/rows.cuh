// The addresses of a tensor's rows in global memory: their one home.
#pragma once

#include "common/params.h"
#include "tile/place.cuh"

namespace fa::tile {

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

/// The float32 number of such a row: LSE, or its gradient.
__device__ inline float& statistic(const kernel::View& view, const Place& place, long long row) {
  return static_cast<float*>(view.data)[place.sequence * view.batch + place.head * view.head +
                                        (place.rows.begin + row) * view.row];
}

}  // namespace fa::tile
