// Tiles between global and shared memory, by all threads of a block, whatever the rows' alignment.
#pragma once

#include "ptx/cp_async.cuh"
#include "tile/shared_tile.cuh"

namespace fa::tile {

using u16 = unsigned short;

/// Rows of one head in global memory: row r begins at data + r * stride bytes.
struct GlobalRows {
  const char* data;
  long long stride;
};

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

/// Starts the copy of `rows` rows from `first` on into a tile; rows from `count` on and columns
/// from `columns` on become 0, and are never read. cp.async has no 2-byte copies: those are made at
/// once.
template <typename Tile, int rows, int columns, int threads, int alignment>
__device__ void load_tile(u32 tile, GlobalRows from, int first, int count, int thread) {
  constexpr int pieces = rows * Tile::chunks;
  constexpr int wanted = columns / 8;
#pragma unroll
  for (int begin = 0; begin < pieces; begin += threads) {
    const int piece = begin + thread;
    if (pieces % threads != 0 && piece >= pieces) break;
    const int row = piece / Tile::chunks;
    const int chunk = piece % Tile::chunks;
    const bool valid = first + row < count && (wanted == Tile::chunks || chunk < wanted);
    const char* source = from.data + (valid ? (first + row) * from.stride + chunk * 16 : 0);
    const u32 target = tile + Tile::offset(row, chunk);
    if constexpr (alignment == 2) {
      ptx::store_shared(target, valid ? load_chunk<2>(source) : uint4{0, 0, 0, 0});
    } else {
#pragma unroll
      for (int part = 0; part < 16; part += alignment) {
        ptx::cp_async<alignment>(target + part, source + part, valid);
      }
    }
  }
}

}  // namespace fa::tile
