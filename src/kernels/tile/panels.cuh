// Tiles of 16-bit elements as the copy engine writes them and wgmma reads them: panels of 64
// columns, whose rows have 128 bytes and are swizzled within them.
#pragma once

#include "common/descriptor.h"
#include "ptx/shared.cuh"
#include "ptx/tensor_copy.cuh"
#include "tile/copy.cuh"
#include "tile/product.cuh"

namespace fa::tile {

using u32 = unsigned;
using u64 = unsigned long long;

/// Columns beyond `columns` in the last panel are 0.
template <int rows_, int columns_>
struct PanelTile {
  static constexpr int rows = rows_;
  static constexpr int columns = columns_;
  static constexpr int panel = kernel::panel_columns;
  static constexpr int row_bytes = 2 * panel;
  static constexpr int panels = (columns + panel - 1) / panel;
  static constexpr int panel_bytes = rows * row_bytes;
  static constexpr int bytes = panels * panel_bytes;
  static_assert(rows % 8 == 0);

  /// Begins to copy rows from `row` on by the copy engine: what the tensor has not becomes 0.
  /// `barrier`, an mbarrier, gets `bytes`. One thread.
  static __device__ void load(u32 shared, const kernel::TensorMap* map, int row, int head,
                              int sequence, u32 barrier) {
    if constexpr (kernel::whole_panels(columns)) {
      ptx::tensor_load(shared, map, {0, row, 0, head, sequence}, barrier);
    } else {
#pragma unroll
      for (int i = 0; i < panels; ++i) {
        ptx::tensor_load(shared + i * panel_bytes, map, {i * panel, row, head, sequence}, barrier);
      }
    }
  }

  /// The same of several heads from `head` on, whose rows lie side by side. The tensor's map is
  /// [column, head, row, sequence]; `barrier` gets the bytes of its box for each panel.
  static __device__ void load_heads(u32 shared, const kernel::TensorMap* map, int row, int head,
                                    int sequence, u32 barrier) {
#pragma unroll
    for (int i = 0; i < panels; ++i) {
      ptx::tensor_load(shared + i * panel_bytes, map, {i * panel, head, row, sequence}, barrier);
    }
  }

  /// The same of a tensor's panels from `first_panel` on, by a map whose boxes have one.
  static __device__ void load_panels(u32 shared, const kernel::TensorMap* map, int first_panel,
                                     int row, int head, int sequence, u32 barrier) {
#pragma unroll
    for (int i = 0; i < panels; ++i) {
      ptx::tensor_load(shared + i * panel_bytes, map,
                       {(first_panel + i) * panel, row, head, sequence}, barrier);
    }
  }

  /// The same of `box_rows` rows, which become those of the tile from `first` on; `barrier` gets
  /// their bytes.
  template <int box_rows>
  static __device__ void load_part(u32 shared, int first, const kernel::TensorMap* map, int row,
                                   int head, int sequence, u32 barrier) {
    if constexpr (box_rows == rows) {
      load(shared, map, row, head, sequence, barrier);
    } else {
      load_panels(shared + first * row_bytes, map, 0, row, head, sequence, barrier);
    }
  }

  /// The same as `load` by the loads and stores of a warp, for rows of any alignment: the first is
  /// at `from`, the next `stride` bytes on. Rows from `count` on become 0, and columns from
  /// `column_count` on.
  template <int alignment>
  static __device__ void copy(u32 shared, const char* from, long long stride, int count, int lane,
                              int column_count = columns) {
    copy_rows<alignment>(
        shared, [&](int row) { return from + row * stride; }, count, lane, column_count);
  }
  /// The same of rows that begin at row_at(row).
  template <int alignment, typename RowAt>
  static __device__ void copy_rows(u32 shared, const RowAt& row_at, int count, int lane,
                                   int column_count = columns) {
    constexpr int chunks = panels * panel / 8;
    for (int i = lane; i < rows * chunks; i += 32) {
      const int row = i / chunks, chunk = i % chunks;
      uint4 value{0, 0, 0, 0};
      if (row < count && chunk < column_count / 8) {
        value = load_chunk<alignment>(row_at(row) + 16 * chunk);
      }
      const u32 at = shared + chunk / 8 * panel_bytes + row * row_bytes + chunk % 8 * 16;
      ptx::store_shared(kernel::swizzled(at, kernel::Swizzle::within_128), value);
    }
  }
  /// A warp's 16 rows, as as_left gives them, into the tile's rows from `shared` on.
  template <int slices>
  static __device__ void put(u32 shared, const KeptSlices<slices, 1>& x, int lane) {
    const u32 at = kernel::swizzled(shared + lane % 16 * row_bytes + lane / 16 * 16,
                                    kernel::Swizzle::within_128);
#pragma unroll
    for (int i = 0; i < slices; ++i) {
      ptx::stmatrix((at ^ i % (panel / 16) * 32) + i / (panel / 16) * panel_bytes, x.slice[i][0]);
    }
  }
  /// Begins to copy rows to the tensor's from `row` on: columns beyond the tensor's are left out.
  /// One thread, in its group of copies (ptx/bulk_copy.cuh).
  static __device__ void store(u32 shared, const kernel::TensorMap* map, int row, int head,
                               int sequence) {
    if constexpr (kernel::whole_panels(columns)) {
      ptx::tensor_store(map, {0, row, 0, head, sequence}, shared);
    } else {
#pragma unroll
      for (int i = 0; i < panels; ++i) {
        ptx::tensor_store(map, {i * panel, row, head, sequence}, shared + i * panel_bytes);
      }
    }
  }
  /// A row becomes 0.
  static __device__ void clear_row(u32 shared, int row, int lane) {
    constexpr int chunks = panels * panel / 8;
    static_assert(chunks <= 32);
    if (lane < chunks) {
      ptx::store_shared(shared + lane / 8 * panel_bytes + row * row_bytes + lane % 8 * 16,
                        uint4{0, 0, 0, 0});
    }
  }
  /// Rows from `first` on become 0.
  static __device__ void clear_rows(u32 shared, int first, int lane) {
    for (int i = 0; i < panels; ++i) {
      for (int at = first * row_bytes + 16 * lane; at < panel_bytes; at += 16 * 32) {
        ptx::store_shared(shared + i * panel_bytes + at, uint4{0, 0, 0, 0});
      }
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

  /// The same operand, unknown to the compiler: in a loop it then forms each slice's descriptor
  /// where it is needed. It would form those of a tile that stays in place before the loop, and
  /// keep each in a register of its own.
  __device__ PanelOperand in_loop() const {
    PanelOperand same = *this;
    asm volatile("" : "+r"(same.low));
    return same;
  }

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
