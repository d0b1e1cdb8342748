#include "bench/buffers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "common/exit.hpp"
#include "support/measure/machine.hpp"
#include "support/measure/memory.hpp"
#include "support/random.hpp"
#include "support/text.hpp"

namespace fa::cli {
namespace {

/// Elements that a cell needs for `use`; decoding takes K and V from the rotation.
int64_t elements(const Cell& c, Buffers::Use use) {
  const bool of_keys =
      use == Buffers::k || use == Buffers::v || use == Buffers::dk || use == Buffers::dv;
  if (use >= Buffers::dout && c.work != Work::backward) return 0;
  if (of_keys && c.work == Work::decode) return 0;
  return c.batch * c.head_dim * (of_keys ? c.seqlen_k * c.heads_k : c.seqlen_q * c.heads_q);
}

/// Eight times the last cache, so that the next turn finds nothing of this one in it. At most 4 GiB
/// and half of the free memory.
int64_t suitable_rotation(const std::vector<Cell>& cells) {
  int64_t most = 0;
  for (const Cell& c : cells) most = std::max(most, c.work == Work::decode ? c.key_bytes() : 0);
  if (most == 0) return 0;
  const int64_t wanted = std::max(8 * support::last_level_cache(), 2 * most);
  return std::min({wanted, int64_t{4} << 30, support::available_memory() / 2});
}

/// Random normal bfloat16 numbers, 8 MiB of them, then copies: that is quick and writes every page.
/// Cells of other dtypes read the same bytes: any two numbers make a float32 near to normal, and
/// each is a finite float16.
io::Array random_rotation(int64_t bytes) {
  io::Array whole(bfloat16, {bytes / 2});
  io::Array part(bfloat16, {std::min<int64_t>(bytes / 2, 1 << 22)});
  support::fill_normal(part, 1, Buffers::uses);
  for (int64_t at = 0; at < whole.bytes(); at += part.bytes()) {
    const int64_t count = std::min(part.bytes(), whole.bytes() - at);
    std::memcpy(whole.data() + at, part.data(), static_cast<size_t>(count));
  }
  return whole;
}

}  // namespace

Buffers::Buffers(const std::vector<Cell>& cells, int64_t rotation_bytes) {
  const int64_t suitable = suitable_rotation(cells);
  if (suitable > 0) rotation_ = random_rotation(rotation_bytes > 0 ? rotation_bytes : suitable);
  for (const Cell& cell : cells) {
    auto& arrays = buffers_[{cell.dtype.code, cell.dtype.bits}];
    if (!arrays.empty()) continue;
    for (uint8_t use = 0; use < uses; ++use) {
      int64_t most = 0;
      for (const Cell& other : cells) {
        if (other.dtype == cell.dtype) most = std::max(most, elements(other, Use{use}));
      }
      support::fill_normal(arrays.emplace_back(cell.dtype, std::vector{most}), 1, use);
    }
  }
}

std::byte* Buffers::data(DType dtype, Use use) {
  return buffers_.at({dtype.code, dtype.bits}).at(use).data();
}

std::byte* Buffers::next_place(int64_t bytes) {
  if (bytes > rotation_.bytes()) {
    throw UsageError(fmt::format("decode: K and V take {}, the memory to rotate in is {}",
                                 support::bytes_text(static_cast<double>(bytes)),
                                 support::bytes_text(static_cast<double>(rotation_.bytes()))));
  }
  if (place_ + bytes > rotation_.bytes()) place_ = 0;
  std::byte* place = rotation_.data() + place_;
  place_ += bytes;
  return place;
}

}  // namespace fa::cli
