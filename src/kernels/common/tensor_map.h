// How a tensor in global memory is told to the copy engine of a GPU (TMA), on host and device.
#pragma once

namespace fa::kernel {

/// The driver's cuTensorMapEncodeTiled writes it and alone knows its bits. A kernel gets it as
/// a part of its `__grid_constant__` parameters.
struct alignas(64) TensorMap {
  unsigned long long words[16];
};

/// How the 16-byte chunks of a tile in shared memory are permuted: within lines of 32, 64 or 128
/// bytes, by XOR of the chunk's number with bits of the line's address. The numbers are the
/// driver's.
enum class Swizzle : int { none, within_32, within_64, within_128 };

/// Bytes of a line; 16, a chunk, where nothing is permuted.
constexpr int line_bytes(Swizzle swizzle) { return 16 << static_cast<int>(swizzle); }

/// Where in shared memory the swizzle puts the byte of `address`. It XORs bits 7 to 9 into bits 4
/// to 6: all three within 128 bytes, the lower two within 64, the lowest within 32.
constexpr unsigned swizzled(unsigned address, Swizzle swizzle) {
  const unsigned chunks = static_cast<unsigned>(line_bytes(swizzle)) / 16;
  return address ^ (address >> 7 & (chunks - 1)) << 4;
}

/// Tiles in shared memory are made of panels of as many columns of 16 bits: lines of 128 bytes.
inline constexpr int panel_columns = 64;

/// Whether the panels of a row end where the row does. Its tensor's map is then [column of a panel,
/// row, panel, head, sequence], with boxes of all panels, so that one copy brings a tile; else it
/// is [column, row, head, sequence], with boxes of one panel, beyond whose last column zeros come.
/// Where a tile holds rows of several heads, it is [column, head, row, sequence], with such boxes.
constexpr bool whole_panels(int columns) { return columns % panel_columns == 0; }

}  // namespace fa::kernel
