// Tiles between global and shared memory, by a block's threads or a group of them, whatever the
// rows' alignment.
#pragma once

#include "ptx/cp_async.cuh"
#include "tile/shared_tile.cuh"

namespace fa::tile {

using u16 = unsigned short;

/// 16 bytes from an address of any even alignment, by loads of `alignment` bytes.
template <int alignment>
__device__ uint4 load_chunk(const char* from) {
  if constexpr (alignment == 2) {
    const u16* p = reinterpret_cast<const u16*>(from);
    u32 word[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) word[i] = p[2 * i] | static_cast<u32>(p[2 * i + 1]) << 16;
    return {word[0], word[1], word[2], word[3]};
  } else if constexpr (alignment == 4) {
    const u32* p = reinterpret_cast<const u32*>(from);
    return {p[0], p[1], p[2], p[3]};
  } else if constexpr (alignment == 8) {
    const uint2* p = reinterpret_cast<const uint2*>(from);
    const uint2 a = p[0], b = p[1];
    return {a.x, a.y, b.x, b.y};
  } else {
    return *reinterpret_cast<const uint4*>(from);
  }
}

template <int alignment>
__device__ void store_chunk(char* to, uint4 value) {
  const u32 word[4] = {value.x, value.y, value.z, value.w};
  if constexpr (alignment == 2) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      reinterpret_cast<u16*>(to)[i] = static_cast<u16>(word[i / 2] >> (i % 2 * 16));
    }
  } else if constexpr (alignment == 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) reinterpret_cast<u32*>(to)[i] = word[i];
  } else if constexpr (alignment == 8) {
    reinterpret_cast<uint2*>(to)[0] = {value.x, value.y};
    reinterpret_cast<uint2*>(to)[1] = {value.z, value.w};
  } else {
    *reinterpret_cast<uint4*>(to) = value;
  }
}

/// Half as much, 8 bytes.
template <int alignment>
__device__ void store_half_chunk(char* to, uint2 value) {
  const u32 word[2] = {value.x, value.y};
  if constexpr (alignment == 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      reinterpret_cast<u16*>(to)[i] = static_cast<u16>(word[i / 2] >> (i % 2 * 16));
    }
  } else if constexpr (alignment == 4) {
    reinterpret_cast<u32*>(to)[0] = word[0];
    reinterpret_cast<u32*>(to)[1] = word[1];
  } else {
    *reinterpret_cast<uint2*>(to) = value;
  }
}

/// One thread's share of the copy of a tile. The thread copies the same chunks of every tile.
/// `whole`: the `threads` are the whole block, which copies one tile. Otherwise each group of
/// `threads` copies tiles of its own.
template <typename Tile, int rows, int columns, int threads, int alignment, bool whole>
struct TileShare {
  static constexpr int side_panels = Tile::pairs ? 2 : 1;  ///< that a row's lanes read together
  /// Eight lanes write rows of one panel, which lie in unlike banks.
  static constexpr int line_rows = 64 / Tile::panel;
  static constexpr int side_chunks = side_panels * Tile::panel_chunks;
  static constexpr int pass_rows = threads / side_chunks;  ///< that all threads copy at once
  static constexpr int passes = (rows + pass_rows - 1) / pass_rows;
  static constexpr int wanted = columns / 8;  ///< chunks; the others become 0

  int row, chunk;  ///< in the first panels

  __device__ TileShare() {
    const int thread = whole ? threadIdx.x : threadIdx.x % threads;
    const int line = thread / 8;
    row = line / side_panels * line_rows + thread % 8 / Tile::panel_chunks;
    chunk = line % side_panels * Tile::panel_chunks + thread % Tile::panel_chunks;
  }

  /// Starts the copy of a tile, of which `count` rows exist: the others become 0, and are never
  /// read. from(pass): the address of the thread's first chunk in that pass's row.
  template <typename From>
  __device__ void load(u32 tile, int count, const From& from) const {
    if (count >= rows) {
      copy<false>(tile, count, from);
    } else {
      copy<true>(tile, count, from);
    }
  }

 private:
  template <bool cut, typename From>
  __device__ void copy(u32 tile, int count, const From& from) const {
    const u32 to = tile + Tile::offset(row, chunk);
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) {
      const int at = row + pass * pass_rows;
      if (rows % pass_rows != 0 && at >= rows) break;
      const char* source = from(pass);
      // Eight rows on, the swizzle begins anew.
      const u32 target = pass_rows % 8 == 0 ? to + pass * pass_rows * Tile::row_bytes
                                            : tile + Tile::offset(at, chunk);
#pragma unroll
      for (int panel = 0; panel < Tile::panels; panel += side_panels) {
        const bool wide = (panel + side_panels) * Tile::panel_chunks <= wanted;
        const bool valid =
            (!cut || at < count) && (wide || panel * Tile::panel_chunks + chunk < wanted);
        copy_chunk(target + panel * Tile::panel_bytes, source + panel * Tile::row_bytes, valid);
      }
    }
  }

  /// cp.async has no 2-byte copies: those are made at once.
  static __device__ void copy_chunk(u32 target, const char* source, bool valid) {
    if constexpr (alignment == 2) {
      ptx::store_shared(target, valid ? load_chunk<2>(source) : uint4{0, 0, 0, 0});
    } else {
#pragma unroll
      for (int part = 0; part < 16; part += alignment) {
        ptx::cp_async<alignment>(target + part, source + part, valid);
      }
    }
  }
};

/// The copies of successive tiles, from rows of any stride: the thread adds one or two numbers to
/// each row's address and forms no address for each chunk.
template <typename Tile, int rows, int columns, int threads, int alignment, bool whole = true>
struct TileReader {
  using Share = TileShare<Tile, rows, columns, threads, alignment, whole>;

  const Share share;
  const char* from;  ///< this thread's chunk of the next tile
  long long stride;  ///< of a row, in bytes

  /// `data`: the first row of the first tile.
  __device__ TileReader(const char* data, long long row_bytes)
      : from(data + share.row * row_bytes + share.chunk * 16), stride(row_bytes) {}

  /// Starts the copy of the next tile, of which `count` rows exist.
  __device__ void load(u32 tile, int count) {
    share.load(tile, count, [&](int pass) { return from + pass * Share::pass_rows * stride; });
    from += rows * stride;
  }
};

}  // namespace fa::tile
