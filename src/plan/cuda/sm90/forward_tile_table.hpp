// The best measured tiles of the forward kernel, for plain problems of a width: written by
// bench/tile_table.py --plan.
#pragma once

#include "plan/cuda/sm90/forward_tiles.hpp"

namespace fa::sm90 {

struct MeasuredTile {
  int64_t widest;  ///< columns of Q or V, whichever has more: at most so many
  bool unequal;    ///< tiles have unequal numbers of steps: masks, packed sequences, seqused
  ForwardTile tile;
};

// clang-format off
inline constexpr MeasuredTile forward_tile_table[] = {
    // groups, heads, keys, key_stages, value_stages, query_stages, bias_stages, loader_registers, turns, staged_out, claims, steps_ahead
    {64, false, {3, 1, 128, 4, 4, 2, 0, 32, true, true, true, 0}},
    {64, true, {3, 1, 128, 4, 4, 2, 0, 32, true, true, true, 0}},
    {128, false, {2, 1, 128, 2, 2, 2, 0, 24, true, true, false, 1}},
    {128, true, {2, 1, 128, 2, 2, 2, 0, 24, true, true, true, 0}},
    {256, false, {2, 1, 64, 2, 3, 1, 0, 40, true, false, false, 0}},
    {256, true, {2, 1, 64, 2, 3, 1, 0, 40, true, false, true, 0}},
};
// clang-format on

}  // namespace fa::sm90
