// Results from registers to global memory by way of shared memory.
#pragma once

#include "tile/panels.cuh"

namespace fa::tile {

/// A warp's 16 rows, as as_left gives them, 64 columns at a time: a store is of whole lines, where
/// store_fragment's is of 32 bytes of eight rows. `shared`: the warp's own 16 rows of a panel.
/// address(row): where the row begins; null where it does not exist.
template <int columns, int alignment, int slices, typename Address>
__device__ void store_lines(u32 shared, const KeptSlices<slices, 1>& x, int lane,
                            const Address& address) {
  using Panel = PanelTile<16, 64>;
  constexpr int chunks = Panel::row_bytes / 16, slices_of_panel = Panel::panel / 16;
  const int chunk = lane % chunks;
  const auto at = [&](int row, int chunk_of_row) {
    return kernel::swizzled(shared + row * Panel::row_bytes + 16 * chunk_of_row,
                            kernel::Swizzle::within_128);
  };
  const u32 put = at(lane % 16, lane / 16), taken = at(lane / chunks, chunk);
#pragma unroll
  for (int panel = 0; panel * slices_of_panel < slices; ++panel) {
#pragma unroll
    for (int i = 0; i < slices_of_panel; ++i) {
      const int slice = panel * slices_of_panel + i;
      if (slice < slices) ptx::stmatrix(put ^ 32 * i, x.slice[slice][0]);
    }
    __syncwarp();
#pragma unroll
    for (int row = 0; row < 16; row += 32 / chunks) {
      char* to = address(row + lane / chunks);
      if (to != nullptr && panel * chunks + chunk < columns / 8) {
        // Four rows further on the swizzle has another bit.
        const u32 from = (taken ^ row / 4 % 2 * 64) + row * Panel::row_bytes;
        store_chunk<alignment>(to + Panel::row_bytes * panel + 16 * chunk, ptx::load_shared(from));
      }
    }
    __syncwarp();  // all lanes have read it
  }
}

}  // namespace fa::tile
