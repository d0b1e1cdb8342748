// K or V of successive steps, for a kernel whose threads copy them: from rows of a tensor, or from
// the pages of a cache.
#pragma once

#include "tile/pages.cuh"
#include "tile/rows.cuh"

namespace fa::tile {

/// The keys of a tile of query rows, from number `first` of the sequence on.
struct KeysFrom {
  const kernel::ForwardParams& p;
  const Place& place;  ///< of the query rows
  const Side& side;
  int first;

  __device__ int head() const { return place.head / p.heads.group; }
};

template <bool paged, typename Tile, int rows, int columns, int threads, int alignment, bool whole>
struct KeyReader : TileReader<Tile, rows, columns, threads, alignment, whole> {
  __device__ KeyReader(const kernel::View& view, int first_column, const KeysFrom& keys)
      : TileReader<Tile, rows, columns, threads, alignment, whole>(
            row_of(view, keys.place, keys.head(), keys.side.begin + keys.first) + 2 * first_column,
            2 * view.row) {}
};

template <typename Tile, int rows, int columns, int threads, int alignment, bool whole>
struct KeyReader<true, Tile, rows, columns, threads, alignment, whole>
    : PagedTileReader<Tile, rows, columns, threads, alignment, whole> {
  __device__ KeyReader(const kernel::View& view, int first_column, const KeysFrom& keys)
      : PagedTileReader<Tile, rows, columns, threads, alignment, whole>(
            view, keys.head(), first_column,
            KeyPages(keys.p.pages, keys.place.sequence, keys.side.length), keys.first) {}
};

}  // namespace fa::tile
