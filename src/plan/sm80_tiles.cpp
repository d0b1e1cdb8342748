#include "plan/sm80_tiles.hpp"

#include <algorithm>
#include <span>

#include "problem/argument.hpp"

namespace fa {

namespace {

constexpr int pad16(int64_t n) { return static_cast<int>((n + 15) / 16 * 16); }

}  // namespace

int value_columns(const ForwardTile& tile, int64_t head_dim_v) {
  return static_cast<int>(head_dim_v / tile.value_slices);
}

int shared_bytes(const ForwardTile& tile, int64_t head_dim, int64_t head_dim_v) {
  const int depth = pad16(head_dim);
  const int width = pad16(value_columns(tile, head_dim_v));
  const int stages = tile.stages * tile.keys * (depth + width);
  return 2 * std::max(tile.rows() * depth + stages, tile.rows() * width);  // O takes their place
}

int registers(const ForwardTile& tile, int64_t head_dim_v) {
  const auto fragment = [&](int columns) { return tile.warp_rows * columns / 32; };
  const int out = fragment(pad16(value_columns(tile, head_dim_v)));
  const int scores = fragment(tile.keys);
  const int statistics = 2 * tile.warp_rows / 8;  // maximum and sum
  return out + scores + scores / 2 + fragment(16 * tile.query_slices) / 2 + statistics;
}

int register_limit(const ForwardTile& tile) {
  const int warps = (tile.warps * tile.min_blocks + sm_quarters - 1) / sm_quarters;
  const int units = registers_per_sm / sm_quarters / warps / register_unit;
  return std::min(units * register_unit / 32, registers_per_thread);
}

namespace {

/// What fits the widest head_dim of a class, best first; the last ones are for 99 KB.
std::span<const ForwardTile> candidates(int depth, int width) {
  static const ForwardTile narrow[] = {
      {.warps = 4, .warp_rows = 32, .keys = 32, .query_slices = 4, .min_blocks = 3},
  };
  static const ForwardTile middle[] = {
      {.warps = 4, .warp_rows = 32, .keys = 32, .query_slices = 0, .min_blocks = 2},
      {.warps = 4, .warp_rows = 32, .keys = 16, .query_slices = 0, .min_blocks = 2},
  };
  static const ForwardTile wide[] = {
      {.warps = 8, .warp_rows = 16, .keys = 32, .min_blocks = 1},
      {.warps = 4, .warp_rows = 16, .keys = 16, .min_blocks = 1},
      {.warps = 2, .warp_rows = 16, .keys = 16, .min_blocks = 1},
  };
  static const ForwardTile widest[] = {
      {.warps = 4, .warp_rows = 16, .keys = 16, .min_blocks = 1, .value_slices = 2},
      {.warps = 2, .warp_rows = 16, .keys = 16, .min_blocks = 1, .value_slices = 2},
      {.warps = 1, .warp_rows = 16, .keys = 16, .min_blocks = 1, .value_slices = 8},
  };
  if (depth > 256) return widest;
  if (width > 128 || depth > 192) return wide;
  if (width > 64 || depth > 64) return middle;
  return narrow;
}

}  // namespace

ForwardTile forward_tile(const Problem& problem, const GpuLimits& gpu) {
  for (ForwardTile tile : candidates(pad16(problem.head_dim), pad16(problem.head_dim_v))) {
    const int bytes = shared_bytes(tile, problem.head_dim, problem.head_dim_v);
    if (bytes > gpu.shared_per_block) continue;
    tile.query_slices = std::min(tile.query_slices, pad16(problem.head_dim) / 16);
    tile.min_blocks = std::min(tile.min_blocks, gpu.shared_per_sm / (bytes + 1024));
    return tile;
  }
  fail(Status::unsupported, "q", "has head_dim {}, {} of v: too wide for the {} bytes of {}",
       problem.head_dim, problem.head_dim_v, gpu.shared_per_block, gpu.arch);
}

}  // namespace fa
