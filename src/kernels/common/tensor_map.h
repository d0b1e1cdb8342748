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

}  // namespace fa::kernel
