// The scratch memory of a backward pass: a head's rows, or keys, with room that each sequence
// begins with a tile of its own.
#pragma once

#include "common/params.h"
#include "ptx/reduce.cuh"
#include "tile/place.cuh"

namespace fa::tile {

/// The first of a sequence's rows, or keys, among a head's padded ones.
template <int tile, bool packed>
__device__ long long padded_begin(const kernel::Lengths& lengths, int sequence, Side side) {
  if constexpr (packed) {
    return (side.begin + static_cast<long long>(sequence) * tile) / tile * tile;
  } else {
    return sequence * ((static_cast<long long>(lengths.seqlen) + tile - 1) / tile * tile);
  }
}

/// Of a kernel's Config: its tiles of query rows, and of keys.
template <class C>
__device__ long long padded_row_begin(const kernel::Lengths& lengths, int sequence, Side rows) {
  return padded_begin<C::rows, C::packed_q>(lengths, sequence, rows);
}
template <class C>
__device__ long long padded_key_begin(const kernel::Lengths& lengths, int sequence, Side keys) {
  return padded_begin<C::keys, C::packed_k>(lengths, sequence, keys);
}

/// For float16, of each sequence and head: the largest |dO|^2 and |dLSE| of query heads, and the
/// largest |V|^2 of key heads.
enum class Range { dout, dlse, values };
__device__ inline float* range_of(const kernel::BackwardParams& p, Range range, int sequence,
                                  int head) {
  const long long query_heads = static_cast<long long>(p.order.batch) * p.heads.query;
  if (range == Range::values) {
    return p.ranges + 2 * query_heads +
           static_cast<long long>(sequence) * (p.heads.query / p.heads.group) + head;
  }
  return p.ranges + (range == Range::dlse ? query_heads : 0) +
         static_cast<long long>(sequence) * p.heads.query + head;
}

/// The largest of what a block's threads have found, none of it negative; NaN is passed over.
__device__ inline void raise_range(float* range, float x) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  if (threadIdx.x % 32 == 0) ptx::max_global(range, x);
}

}  // namespace fa::tile
