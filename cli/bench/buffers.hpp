// Memory that the cells of a benchmark share, so that a grid fits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "bench/cell.hpp"
#include "support/io/array.hpp"

namespace fa::cli {

class Buffers {
 public:
  enum Use : uint8_t { q, k, v, dout, dq, dk, dv, uses };

  /// `rotation_bytes`: 0 for what suits the machine's caches and memory.
  Buffers(const std::vector<Cell>& cells, int64_t rotation_bytes);

  /// Memory for the largest cell of this dtype.
  std::byte* data(DType dtype, Use use);

  /// Decoding takes its keys and values from a new place here at each call, so that no cache holds
  /// them. Empty when no cell decodes.
  const io::Array& rotation() const { return rotation_; }
  /// The begin of the next `bytes` of the rotation. Throws UsageError when it is not that long.
  std::byte* next_place(int64_t bytes);

 private:
  std::map<std::pair<int, int>, std::vector<io::Array>> buffers_;  ///< by dtype's code and bits
  io::Array rotation_;
  int64_t place_ = 0;
};

}  // namespace fa::cli
