// How wgmma is told where an operand lies in shared memory (PTX ISA 9.7.15.5.1.2), on host and
// device.
#pragma once

#include "common/tensor_map.h"

namespace fa::kernel {

/// Along which side of an operand its elements are next to each other in shared memory: k, the side
/// that is summed over, or A's rows and B's columns.
enum class Major : int { k, mn };

/// The part of a descriptor that does not depend on the operand's address. An operand of 16-bit
/// elements is made of pieces of 8 lines, 8 * line_bytes(swizzle) bytes each, in which line follows
/// line. Both distances are in bytes, multiples of 16, less than 2^18.
/// - Major::k: a line is a row of A or a column of B. `stride_bytes`: to the next 8 of them.
///   `leading_bytes`: to the next 8 of k, without a swizzle; with one it is not looked at, for the
///   16 of k lie in one line.
/// - Major::mn with a swizzle: a line is one of k. `stride_bytes`: to the next 8 of k.
///   `leading_bytes`: to the next line_bytes / 2 rows of A or columns of B.
/// - Major::mn without one: `leading_bytes`: to the next 8 of k. `stride_bytes`: to the next 8 rows
///   of A or columns of B.
constexpr unsigned long long descriptor_of(Swizzle swizzle, unsigned leading_bytes,
                                           unsigned stride_bytes) {
  // 128, 64 and 32 bytes are 1, 2 and 3.
  const auto mode = (4ull - static_cast<unsigned>(swizzle)) % 4;
  return mode << 62 | static_cast<unsigned long long>(stride_bytes >> 4) << 32 |
         static_cast<unsigned long long>(leading_bytes >> 4) << 16;
}

/// The descriptor of an operand at `address`, a multiple of 16 bytes in shared memory. Where the
/// operand begins inside of a piece, the pieces are aligned to their size: the swizzle is one of
/// addresses.
constexpr unsigned long long descriptor_at(unsigned long long descriptor, unsigned address) {
  return descriptor | (address & 0x3ffff) >> 4;
}

}  // namespace fa::kernel
