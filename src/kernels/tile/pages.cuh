// Keys that lie in the pages of a cache (kernel::PageTable).
#pragma once

#include "common/params.h"
#include "tile/copy.cuh"

namespace fa::tile {

struct PageRow {
  int page, row;
};

/// The pages of one sequence.
struct KeyPages {
  const kernel::PageTable& table;
  const int* numbers;
  int keys;  ///< of the sequence

  __device__ KeyPages(const kernel::PageTable& pages, int sequence, int k_len)
      : table(pages), numbers(pages.numbers + sequence * pages.batch), keys(k_len) {}

  /// Where a key lies; somewhere in the cache for one that the sequence has not, or whose page the
  /// cache has not.
  __device__ PageRow of(int key) const {
    const int index = key / table.size;
    // mutant "CUDA: page table" of emulated: key < keys => false
    const int page = key < keys ? min(numbers[index * table.page], table.last) : 0;
    return {page < 0 ? 0 : page, key - index * table.size.value};
  }
};

/// TileReader of keys that lie in pages. A thread reads the numbers of a tile's pages when it
/// starts the copy of the tile before.
template <typename Tile, int rows, int columns, int threads, int alignment, bool whole>
struct PagedTileReader {
  using Share = TileShare<Tile, rows, columns, threads, alignment, whole>;

  const Share share;
  const char* from;  ///< this thread's chunk of the cache's first row
  long long row_bytes, page_bytes;
  const KeyPages pages;
  int key;                    ///< first of the tile after the next one
  PageRow at[Share::passes];  ///< of the next tile

  __device__ PagedTileReader(const kernel::View& cache, int head, int first_column,
                             const KeyPages& of_sequence, int first_key)
      : from(static_cast<const char*>(cache.data) + 2 * (head * cache.head + first_column) +
             16 * share.chunk),
        row_bytes(2 * cache.row),
        page_bytes(2 * cache.batch),
        pages(of_sequence),
        key(first_key) {
    find_rows();
  }

  /// Starts the copy of the next tile, of which `count` rows exist.
  __device__ void load(u32 tile, int count) {
    share.load(tile, count, [&](int pass) {
      return from + at[pass].page * page_bytes + at[pass].row * row_bytes;
    });
    find_rows();
  }

 private:
  __device__ void find_rows() {
#pragma unroll
    for (int pass = 0; pass < Share::passes; ++pass) {
      at[pass] = pages.of(key + share.row + pass * Share::pass_rows);
    }
    key += rows;
  }
};

}  // namespace fa::tile
