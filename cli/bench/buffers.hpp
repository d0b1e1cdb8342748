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

  /// As long as the largest cell of this dtype needs.
  std::byte* data(DType dtype, Use use);

  /// Keys and values of decoding come from ever new places here, so that no cache holds them;
  /// empty when no cell decodes.
  const io::Array& rotation() const { return rotation_; }
  /// Where the next `bytes` of the rotation begin. Throws UsageError when it is not that long.
  std::byte* next_place(int64_t bytes);

 private:
  std::map<std::pair<int, int>, std::vector<io::Array>> buffers_;  ///< by dtype's code and bits
  io::Array rotation_;
  int64_t place_ = 0;
};

}  // namespace fa::cli
