// Tiles of 16-bit elements as the copy engine writes them and wgmma reads them: panels of 64
// columns, whose rows have 128 bytes and are swizzled within them.
#pragma once

#include "common/descriptor.h"
#include "ptx/tensor_copy.cuh"

namespace fa::tile {

using u32 = unsigned;
using u64 = unsigned long long;

/// Columns beyond `columns` in the last panel are 0: the tensor's map ends there.
template <int rows_, int columns>
struct PanelTile {
  static constexpr int rows = rows_;
  static constexpr int panel = 64;
  static constexpr int row_bytes = 2 * panel;
  static constexpr int panels = (columns + panel - 1) / panel;
  static constexpr int panel_bytes = rows * row_bytes;
  static constexpr int bytes = panels * panel_bytes;
  static_assert(rows % 8 == 0);

  /// Begins to copy rows from `row` on. `barrier`, an mbarrier, gets `bytes`. One thread.
  static __device__ void load(u32 shared, const kernel::TensorMap* map, int row, int head,
                              int sequence, u32 barrier) {
#pragma unroll
    for (int i = 0; i < panels; ++i) {
      ptx::tensor_load(shared + i * panel_bytes, map, {i * panel, row, head, sequence}, barrier);
    }
  }
};

/// An operand of wgmma in a PanelTile. What is added to its place is added to the lower half of its
/// descriptor, so that the upper half stays a constant.
template <typename Tile, kernel::Major major>
struct PanelOperand {
  static constexpr u64 form = kernel::descriptor_of(
      kernel::Swizzle::within_128, major == kernel::Major::mn ? Tile::panel_bytes : 16,
      8 * Tile::row_bytes);
  u32 low;

  /// The operand's first row is at `address`.
  explicit __device__ PanelOperand(u32 address)
      : low(static_cast<u32>(kernel::descriptor_at(form, address))) {}

  /// Slice `slice` of 16 of k, in the tile that is `offset` bytes further on.
  __device__ u64 at(u32 offset, int slice) const {
    constexpr int panel_slices = Tile::panel / 16;
    const u32 bytes = major == kernel::Major::mn
                          ? slice * 16 * Tile::row_bytes
                          : slice / panel_slices * Tile::panel_bytes + slice % panel_slices * 32;
    return (form & ~0xffffffffull) | (low + offset / 16 + bytes / 16);
  }
};

}  // namespace fa::tile
