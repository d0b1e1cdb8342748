// Results from registers straight to global memory.
#pragma once

#include "tile/copy.cuh"
#include "tile/product.cuh"

namespace fa::tile {

/// A warp's 16 rows, as as_left gives them. address(row): where the row begins; null where it does
/// not exist. Two lanes of a quad exchange halves, so that each stores 8 bytes of a row: a quad's
/// 32 bytes are whole sectors.
template <int columns, int alignment, int slices, typename Address>
__device__ void store_fragment(const KeptSlices<slices, 1>& x, int lane, const Address& address) {
  const bool odd = lane % 2 != 0;
  char* rows[2] = {address(lane / 4), address(lane / 4 + 8)};
  const bool exist[2] = {rows[0] != nullptr, rows[1] != nullptr};
#pragma unroll
  for (char*& row : rows) row += (odd ? 16 : 0) + lane % 4 / 2 * 8;
#pragma unroll
  for (int i = 0; i < slices; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const u32 low = x.slice[i][0][h], high = x.slice[i][0][2 + h];  // columns 16 i, 16 i + 8
      const u32 other = __shfl_xor_sync(~0u, odd ? low : high, 1);
      const bool within = columns % 16 == 0 || i < slices - 1 || !odd;
      if (within && exist[h]) {
        store_half_chunk<alignment>(rows[h] + 32 * i, odd ? uint2{other, high} : uint2{low, other});
      }
    }
  }
}

}  // namespace fa::tile
