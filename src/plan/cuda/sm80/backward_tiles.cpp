#include "plan/cuda/sm80/backward_tiles.hpp"

#include <algorithm>

#include "plan/cuda/common.hpp"
#include "problem/argument.hpp"

namespace fa {

int padded_columns(const BackwardTile& tile, int64_t head_dim) {
  // A warp has 16 rows or keys. Warps that find no rows left stand side by side, each with 16
  // columns or more. So has each that shares a sum.
  int side_by_side = tile.sum_warps;
  while (tile.keys * side_by_side % (16 * tile.warps) != 0 ||
         tile.rows * side_by_side % (16 * tile.warps) != 0) {
    side_by_side *= 2;
  }
  if (side_by_side == 1) return pad16(head_dim);
  for (const int columns : {32, 64, 96, 128, 192, 256, 384, 512}) {
    if (head_dim <= columns && columns % (16 * side_by_side) == 0) return columns;
  }
  return 576;
}

int shared_bytes(const BackwardTile& tile, int64_t head_dim, int64_t head_dim_v) {
  const int columns = padded_columns(tile, head_dim) + padded_columns(tile, head_dim_v);
  const int stage = tile.rows * (2 * columns + 8);  // with LSE and delta
  const int scores = tile.rows * tile.keys;
  const int sums = tile.sum_warps > 1 ? 2 * 4 * tile.sum_warps * scores : 0;
  return 2 * tile.keys * columns + tile.stages * stage + 2 * 2 * scores + sums;
}

bool fits(const BackwardTile& tile, int64_t head_dim, int64_t head_dim_v, const GpuLimits& gpu) {
  return holds(gpu, tile.min_blocks, shared_bytes(tile, head_dim, head_dim_v));
}

namespace {

enum class Meant { for_all, for_any_order, for_plain_any_order, for_long_plain };

struct BackwardEntry {
  int columns;  ///< of Q and V, the wider, at most
  Meant meant;
  BackwardTile tile;
};

/// Which problems a tile suits. The counters of a fixed order take registers, and blocks that wait
/// for their turn begin their copies late. Short sequences among long ones wait for copies, too,
/// and the terms of a score leave other blocks less to do meanwhile. Blocks of 96 keys leave too
/// many keys of a short sequence unused (11% of 512). The bits of `batch_invariant` may not depend
/// on how long the other sequences are, so that it takes the tiles for all problems.
bool is_meant(Meant meant, const Problem& p) {
  if (meant == Meant::for_all) return true;
  if (meant == Meant::for_long_plain) {
    if (p.k.seqlen < 1024 || p.run.batch_invariant) return false;
  } else if (in_order(p)) {
    return false;
  }
  if (meant == Meant::for_any_order) return true;
  const bool packed = p.q.packed || p.k.packed;
  return !packed && p.score.softcap == 0 && !p.score.reads_tensors() && p.dropout_p == 0;
}

/// Eight warps for more than 256 columns, of which each two share a sum.
constexpr BackwardTile shared_sums(int stages, int key_slices) {
  return {.warps = 8,
          .rows = 32,
          .keys = 32,
          .sum_warps = 2,
          .column_warps = 8,
          .stages = stages,
          .query_parts = 2,
          .key_slices = key_slices};
}

// The first whose blocks fit a multiprocessor is taken. Those that want more than 99 KB of a
// multiprocessor's shared memory are the best of some 10 for each head_dim, measured on H100 and
// H200 (docs/kernels/tiles.md); the others are what fits, unmeasured.
using enum Meant;
constexpr BackwardEntry backward_entries[] = {
    {64, for_long_plain, {.keys = 96, .min_blocks = 2}},
    {64, for_plain_any_order, {.min_blocks = 3}},
    {64, for_all, {.key_slices = 4, .value_slices = 4, .min_blocks = 2}},
    {64, for_all, {.query_parts = 2}},
    {96, for_long_plain, {.keys = 96, .query_last = true, .min_blocks = 2}},
    {96, for_all, {.key_slices = 2, .value_slices = 2, .min_blocks = 2}},
    {128, for_all, {.query_parts = 2, .min_blocks = 2}},
    {128, for_plain_any_order, {.stages = 1, .query_parts = 2, .min_blocks = 2}},
    {128, for_all, {.warps = 8, .keys = 128}},
    {128, for_all, {.rows = 32}},
    {256,
     for_any_order,
     {.warps = 8,
      .row_warps = 4,
      .column_warps = 4,
      .query_parts = 2,
      .query_last = true,
      .key_slices = 4}},
    {256, for_all, {.warps = 8, .column_warps = 4, .query_parts = 2}},
    {256, for_all, {.warps = 8, .rows = 32, .column_warps = 4}},
    {256, for_all, {.rows = 32, .keys = 32, .stages = 1}},
    {512, for_all, shared_sums(2, 4)},
    {576, for_all, shared_sums(2, 0)},
    {576, for_all, shared_sums(1, 0)},
    {576,
     for_all,
     {.rows = 16,
      .keys = 16,
      .row_warps = 1,
      .sum_warps = 4,
      .column_warps = 4,
      .stages = 1,
      .query_parts = 2,
      .query_last = true}},
};

}  // namespace

BackwardTile backward_tile(const Problem& p, const GpuLimits& gpu) {
  const int64_t columns = std::max(p.head_dim, p.head_dim_v);
  for (const BackwardEntry& entry : backward_entries) {
    const bool meant = columns <= entry.columns && is_meant(entry.meant, p);
    if (meant && fits(entry.tile, p.head_dim, p.head_dim_v, gpu)) return entry.tile;
  }
  fail(Status::unsupported, "q", "has head_dim {}, {} of v: too wide for the {} bytes of {}",
       p.head_dim, p.head_dim_v, gpu.shared_per_block, gpu.arch);
}

}  // namespace fa
