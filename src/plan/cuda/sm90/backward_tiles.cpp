#include "plan/cuda/sm90/backward_tiles.hpp"

#include <algorithm>

#include "plan/cuda/common.hpp"

namespace fa::sm90 {

int sum_columns(const BackwardTile& t, int64_t head_dim) {
  if (t.rows == 64) return head_dim > 64 ? 128 : 64;
  return pad16(head_dim);
}

int shared_bytes(const BackwardTile& t, int64_t head_dim, int64_t head_dim_v) {
  const auto row_bytes = [](int64_t columns) {  // in panels of 64 columns
    return static_cast<int>(round_up(columns, 64) * 2);
  };
  constexpr int stages = 2, tiles_in_hand = 2, bytes_in_hand = 64;
  const int keys = BackwardTile::keys *
                   (t.key_stages * row_bytes(head_dim) + t.value_stages * row_bytes(head_dim_v));
  const int rows = stages * t.rows * (row_bytes(head_dim) + row_bytes(head_dim_v) + 2 * 4);
  const int scores = stages * BackwardTile::keys * 2 * t.rows;
  const int query_sums = t.rows * sum_columns(t, head_dim) * 4;
  const int barriers =
      16 * (t.key_stages + t.value_stages + 2 * stages + tiles_in_hand + BackwardTile::groups) + 32;
  return keys + rows + scores + query_sums + tiles_in_hand * bytes_in_hand + barriers;
}

int sum_columns(const WideBackwardTile&, int64_t head_dim) {
  return static_cast<int>(round_up(head_dim, 64));
}

int shared_bytes(const WideBackwardTile& t, int64_t head_dim, int64_t head_dim_v) {
  constexpr int panel = 64 * 64 * 2;  // 64 columns of a block's keys, or of a step's rows
  const auto panels = [](int64_t columns) { return static_cast<int>(ceil_div(columns, 64)); };
  constexpr int stages = 2, tiles_in_hand = 2, bytes_in_hand = 64;
  const int keys = panels(head_dim), values = panels(head_dim_v);
  // dO of one and a half steps, in pieces of two panels, where it is wide.
  const int pieces = splits_dout(head_dim_v) ? 3 : stages, piece = std::min(values, 2);
  // Of the other block's keys half of the columns, and dS of both blocks.
  const int all =
      (1 + stages) * keys + values + pieces * piece + (keys > 2 ? 2 : 1) + stages * t.cluster;
  const int statistics = (stages + pieces) * 4 * t.rows;
  const int barriers = 16 * (1 + 1 + stages + pieces + tiles_in_hand) + 80;
  return all * panel + statistics + tiles_in_hand * bytes_in_hand + barriers;
}

namespace {

bool is_masked(const Problem& p) { return p.score.window_left >= 0 || p.score.window_right >= 0; }

// Setting all of dQ's sums to 0 in a kernel of its own sends 128 MB of 16k tokens with 2048 columns
// to memory and back. The main kernel may do without, in two ways. What each gave on an H200 is in
// docs/kernels/sm90-backward.md, "The rows of dQ".

/// But where all rows see all keys, the blocks of a head begin together, wait for the first one,
/// and then go on in step: at head_dim 128 that cost 2 to 5%, at 64 the same beyond these keys.
bool first_should_store(const Problem& p, bool rotates) {
  return is_masked(p) || p.k.packed || (rotates && p.k.seqlen <= 2048);
}

}  // namespace

WideBackwardTile wide_backward_tile(const Problem& p) {
  // Under a mask, from 4k keys on, it cost 2%.
  const bool gains = !is_masked(p) || p.k.seqlen <= 2048;
  return {.rotates = !in_order(p), .clears_sums = !in_order(p) && gains};
}

BackwardTile backward_tile(const Problem& p) {
  BackwardTile tile;
  if (std::max(p.head_dim, p.head_dim_v) <= 64) {
    tile.rows = 128;
    tile.key_stages = tile.value_stages = 2;
    tile.rotates = !in_order(p);
  }
  tile.first_stores = !in_order(p) && first_should_store(p, tile.rotates);
  tile.clears_sums = !in_order(p) && !tile.first_stores && !tile.rotates;  // at 64 it gave nothing
  return tile;
}

}  // namespace fa::sm90
