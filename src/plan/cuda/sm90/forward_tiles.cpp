#include "plan/cuda/sm90/forward_tiles.hpp"

#include <algorithm>
#include <cstdint>

#include "plan/cuda/common.hpp"
#include "plan/cuda/sm90/forward_tile_table.hpp"
#include "plan/rounding.hpp"

namespace fa::sm90 {

int bias_rows(const ForwardTile& t, const Problem& p) {
  constexpr int least = 8;
  return p.score.bias_per_row ? t.rows() : least;
}

int shared_bytes(const ForwardTile& t, const Problem& p) {
  const auto row_bytes = [](int64_t columns) {  // in panels of 64 columns
    return static_cast<int>(round_up(columns, 64) * 2);
  };
  const int tiles = t.query_stages * t.rows() * row_bytes(p.head_dim) +
                    t.key_stages * t.keys * row_bytes(p.head_dim) +
                    t.value_stages * t.keys * row_bytes(p.head_dim_v);
  const int out = t.staged_out ? t.rows() * row_bytes(p.head_dim_v) : 0;
  const int bias = t.bias_stages * bias_rows(t, p) * t.keys * bytes_of(p.score.bias_dtype);
  constexpr int tiles_in_hand = 2, bytes_in_hand = 96;
  const int stages = t.query_stages + t.key_stages + t.value_stages + t.bias_stages + tiles_in_hand;
  return tiles + out + bias + tiles_in_hand * bytes_in_hand + 16 * stages + 16;
}

namespace {

bool unequal(const Problem& p) {
  return p.score.window_right >= 0 || p.score.window_left >= 0 || p.q.packed || p.k.packed ||
         p.q.used || p.k.used;
}

/// Tiles hold all heads that share keys where a head has so few rows that this halves the tiles: a
/// tile then reads the keys once for all of its heads. So they do where packed rows meet a cache,
/// because many sequences have one row, however many the longest has. Scores that read numbers of
/// one head leave a tile with one head; so does `batch_invariant`, since the longest packed
/// sequence decides here.
int heads_of_tile(const Problem& p, int rows) {
  const int64_t group = p.group();
  if (group > rows || p.run.batch_invariant || p.alignment < 16 || p.score.reads_tensors() ||
      p.dropout_p > 0) {
    return 1;
  }
  if (p.q.packed && !p.k.packed && p.k.used) return static_cast<int>(group);
  const int64_t apart = group * ceil_div(p.q.seqlen, rows);
  const int64_t together = ceil_div(p.q.seqlen, rows / group);
  return together > 0 && 2 * together <= apart ? static_cast<int>(group) : 1;
}

/// Makes room for tiles of the bias in shared memory, where the copy engine can bring them.
void make_room_for_bias(ForwardTile& tile, const Problem& p) {
  if (!p.score.bias || !p.score.bias_aligned || p.alignment < 16) return;
  tile.bias_stages = 2;
  const int most = known_gpu("sm_90a")->shared_per_block;
  const auto fits = [&] { return shared_bytes(tile, p) <= most; };
  if (!fits()) tile.key_stages = 2;
  if (!fits()) tile.value_stages = 2;
  if (!fits()) tile.staged_out = false;
  if (!fits()) tile.query_stages = 1;
  if (!fits()) tile.bias_stages = 1;
}

/// Whether few tiles of rows have many keys, so that blocks had better share the steps out. Sums
/// then depend on the batch. Where all sequences have as many keys, these are split.
bool wants_shares(const Problem& p, const ForwardTile& tile) {
  constexpr int64_t least_steps = 4;
  const int64_t keys = std::min(p.k.seqlen, p.keys_of_row() + tile.positions() - 1);
  const bool lengths_differ = p.k.used || p.k.packed;
  if (!lengths_differ || p.run.batch_invariant || keys < least_steps * tile.keys) return false;
  const int64_t heads = p.q.heads / tile.heads;
  const int64_t tiles =
      tiles_of_head(p.q.packed, p.q.seqlen, p.q.tokens, p.batch, tile.positions()) *
      (p.q.packed ? heads : p.batch * heads);
  if (p.q.seqlen == 0 || tiles == 0) return false;
  // Steps are counted with 32 bits, also those of lengths on the device that lie.
  const int64_t most_tiles =
      tiles + p.batch * heads * ceil_div(p.q.seqlen, int64_t{tile.positions()});
  if (most_tiles * ceil_div(p.k.seqlen, tile.keys) > INT32_MAX) return false;
  // A sequence that is one tile has a step for each few keys; beside long ones it would be short.
  return p.q.seqlen <= tile.positions() || 2 * tiles <= known_gpu("sm_90a")->sm_count;
}

/// For rows that one group has room for: as many steps ahead in shared memory as it holds, since
/// such a tile waits for its keys.
ForwardTile tile_of_few_rows(const Problem& p, int64_t widest) {
  ForwardTile tile{.groups = 1,
                   .keys = widest <= 128 ? 128 : 64,
                   .key_stages = 1,
                   .value_stages = 1,
                   .loader_registers = 152,
                   .turns = false};
  tile.heads = heads_of_tile(p, tile.rows());
  const int most = known_gpu("sm_90a")->shared_per_block;
  for (;;) {
    ForwardTile more = tile;
    ++more.key_stages;
    ++more.value_stages;
    if (shared_bytes(more, p) > most) return tile;
    tile = more;
  }
}

}  // namespace

ForwardTile forward_tile(const Problem& p) {
  const int64_t widest = std::max(p.head_dim, p.head_dim_v);
  const bool varies = unequal(p);
  ForwardTile tile = std::ranges::find_if(forward_tile_table, [&](const MeasuredTile& measured) {
                       return widest <= measured.widest && varies == measured.unequal;
                     })->tile;
  tile.heads = heads_of_tile(p, tile.rows());
  ForwardTile few = tile_of_few_rows(p, widest);
  if (p.q.seqlen <= few.positions() && few.heads == tile.heads && wants_shares(p, few)) {
    few.shares = true;
    return few;
  }
  make_room_for_bias(tile, p);
  if (tile.groups < 3 && wants_shares(p, tile)) {
    tile.shares = true;
    tile.claims = false;
  }
  // The copies of O are of whole rows of one head.
  if (tile.heads > 1 || tile.shares) tile.staged_out = false;
  return tile;
}

}  // namespace fa::sm90
