#include "plan/cuda/sm80/forward_tiles.hpp"

#include <algorithm>
#include <cstdint>

#include "plan/cuda/common.hpp"
#include "problem/argument.hpp"

namespace fa {

int value_columns(const ForwardTile& tile, int64_t head_dim_v) {
  return static_cast<int>(round_up(ceil_div(head_dim_v, tile.value_slices), 8));
}

int shared_bytes(const ForwardTile& tile, int64_t head_dim, int64_t head_dim_v) {
  const int depth = pad16(head_dim);
  const int width = pad16(value_columns(tile, head_dim_v));
  const int inputs = 2 * (tile.rows() * depth + tile.stages * tile.keys * (depth + width));
  return std::max(inputs, 2 * tile.rows() * width);  // O takes their place
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

bool fits(const ForwardTile& tile, int64_t head_dim, int64_t head_dim_v, const GpuLimits& gpu) {
  return holds(gpu, tile.min_blocks, shared_bytes(tile, head_dim, head_dim_v));
}

namespace {

/// What decides between tiles besides the head_dims.
struct Work {
  int64_t rows;  ///< of the longest sequence
  int64_t keys;  ///< that a row sees at most
  bool causal;   ///< rows see fewer keys the earlier they come
  bool window;   ///< on the left: a block's rows begin with different keys
  bool packed;   ///< rows, many of whose sequences are short
  bool softcap;
  bool dropout;
  bool tensors;  ///< that a score reads, whose addresses take registers
  bool bias;     ///< one of these tensors

  bool light() const { return !dropout && !tensors; }
  bool plain() const { return light() && !softcap && !packed && !window; }
  bool many_rows() const { return rows > 128; }
};

bool any(const Work&) { return true; }
bool light(const Work& w) { return w.light(); }
bool without_bias(const Work& w) { return !w.bias; }
bool without_terms(const Work& w) { return !w.tensors; }
bool full_or_window(const Work& w) { return !w.causal || w.window; }
bool plain_short(const Work& w) { return w.plain() && w.keys <= 768; }
bool plain_short_causal(const Work& w) { return plain_short(w) && w.causal; }
bool plain_full(const Work& w) { return w.plain() && (!w.causal || w.keys > 6144); }
bool short_causal(const Work& w) {
  return w.light() && w.causal && w.keys <= (w.window ? 768 : 1536);
}
/// Enough for blocks of 256 rows, alone on a multiprocessor.
bool long_light(const Work& w) {
  if (!w.light() || !w.many_rows()) return false;
  if (w.packed || w.softcap) return !w.causal && w.keys > 768;
  return w.keys > 3072;
}
bool long_softcap(const Work& w) {
  return w.light() && w.many_rows() && w.softcap && !w.packed && w.keys > 3072;
}

/// Eight warps in two groups that take turns, alone on a multiprocessor.
constexpr ForwardTile turns(int warp_rows, int keys, int query_slices, int stages = 3) {
  return {.warps = 8,
          .warp_rows = warp_rows,
          .keys = keys,
          .groups = 2,
          .stages = stages,
          .query_slices = query_slices};
}

/// The same, two of them on a multiprocessor.
constexpr ForwardTile paired_turns(int keys, int query_slices) {
  ForwardTile tile = turns(16, keys, query_slices);
  tile.min_blocks = 2;
  return tile;
}

/// Columns of V whose O fits the registers: 128 of a thread's, with 16 rows a warp.
constexpr int most_value_columns = 256;

struct ForwardEntry {
  int depth, width;  ///< head_dim and value columns of a block, at most
  bool (*when)(const Work&);
  ForwardTile tile;
};

// The first whose blocks fit a multiprocessor is taken. Those that want more than 99 KB of a
// multiprocessor's shared memory are the best of 10 to 100 for each head_dim, mask, length and
// option, measured on an H100 (docs/kernels/tiles.md); the others are what fits, unmeasured.
constexpr ForwardEntry forward_entries[] = {
    {32, 32, light, {.keys = 64, .query_slices = 2, .min_blocks = 3}},
    {64,
     64,
     plain_short_causal,  // few steps: the true maximum is the faster one, by up to 6%
     {.keys = 32, .stages = 3, .query_slices = 4, .min_blocks = 3, .stale_maximum = false}},
    {64, 64, plain_short, {.keys = 32, .stages = 3, .query_slices = 4, .min_blocks = 3}},
    {64, 64, plain_full, {.keys = 80, .query_slices = 4, .min_blocks = 2}},
    {64, 64, without_bias, paired_turns(64, 4)},
    {64, 64, light, {.keys = 32, .query_slices = 4, .min_blocks = 3}},
    {64, 64, any, {.keys = 32, .stages = 3, .query_slices = 4, .min_blocks = 2}},
    {96, 96, plain_short_causal, {.keys = 32, .stages = 3, .min_blocks = 2}},
    {96, 96, long_light, turns(32, 64, 0)},
    {96, 96, light, {.keys = 64, .query_slices = 6, .min_blocks = 2}},
    {128, 128, plain_short_causal, {.keys = 64, .min_blocks = 2, .stale_maximum = false}},  // 3%
    {128, 128, long_light, turns(32, 64, 0)},
    {128, 128, long_softcap, turns(32, 48, 0)},
    {128, 128, light, {.keys = 64, .min_blocks = 2}},
    {128, 128, without_terms, paired_turns(48, 0)},
    {128, 128, any, {.keys = 32, .stages = 3, .min_blocks = 2}},
    {128, 128, any, {.warps = 8, .keys = 32}},
    {192, 128, light, turns(32, 48, 0)},
    {192, 128, any, {.keys = 32}},
    {192, 192, any, turns(16, 64, 4)},
    {192, 192, any, turns(16, 48, 8)},
    {192, 192, any, {.warps = 8, .warp_rows = 16, .keys = 32}},
    {256, 256, short_causal, {.warp_rows = 16, .keys = 32, .query_slices = 4, .min_blocks = 2}},
    {256, 256, full_or_window, turns(16, 32, 16)},
    {256, 256, any, turns(16, 32, 8, 4)},
    {256, 256, any, turns(16, 32, 8)},
    {256, 256, any, {.warps = 8, .warp_rows = 16, .keys = 16}},
    // Wider heads: the light tiles are the best of 19 to 150 on an H200, causal at 4k keys.
    {288, 144, light, turns(32, 32, 0)},
    {384, 192, light, turns(16, 32, 12)},
    {384, 256, any, turns(16, 32, 8)},
    {384, 256, any, turns(16, 16, 8)},
    {384, 256, any, {.warp_rows = 16, .keys = 16}},
    {512, 256, light, {.warps = 8, .warp_rows = 16, .keys = 32, .query_slices = 16}},
    {512, 256, any, turns(16, 16, 8)},
    {512, 256, any, {.warp_rows = 16, .keys = 32, .query_slices = 8}},
    {512, 256, any, {.warps = 3, .warp_rows = 16, .keys = 16}},
    {576, 256, any, {.warp_rows = 16, .keys = 32}},
    {576, 256, any, {.warp_rows = 16, .keys = 16}},
    {576, 256, any, {.warps = 2, .warp_rows = 16, .keys = 16}},
};

}  // namespace

ForwardTile forward_tile(const Problem& p, const GpuLimits& gpu) {
  Work work{.rows = p.q.seqlen,
            .keys = p.keys_of_row(),
            .causal = p.score.window_right >= 0,
            .window = p.score.window_left >= 0,
            .packed = p.q.packed,
            .softcap = p.score.softcap > 0,
            .dropout = p.dropout_p > 0,
            .tensors = p.score.reads_tensors(),
            .bias = p.score.bias};
  if (p.run.batch_invariant) {  // bits depend on the tile, so that it may not depend on the batch
    work.rows = 0;
    work.keys = INT64_MAX;
    work.packed = false;
  }
  const auto slices = static_cast<int>(ceil_div(p.head_dim_v, most_value_columns));
  const int depth = pad16(p.head_dim);
  const int width = pad16(value_columns({.value_slices = slices}, p.head_dim_v));
  for (const ForwardEntry& entry : forward_entries) {
    if (depth > entry.depth || width > entry.width || !entry.when(work)) continue;
    ForwardTile tile = entry.tile;
    tile.value_slices = slices;
    tile.query_slices = std::min(tile.query_slices, depth / 16);
    if (fits(tile, p.head_dim, p.head_dim_v, gpu)) return tile;
  }
  fail(Status::unsupported, "q", "has head_dim {}, {} of v: too wide for the {} bytes of {}",
       p.head_dim, p.head_dim_v, gpu.shared_per_block, gpu.arch);
}

}  // namespace fa
