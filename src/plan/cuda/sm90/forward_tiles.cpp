#include "plan/cuda/sm90/forward_tiles.hpp"

#include <algorithm>

#include "kernels/common/padding.h"
#include "plan/rounding.hpp"

namespace fa::sm90 {

int shared_bytes(const ForwardTile& t, int64_t head_dim, int64_t head_dim_v) {
  const auto row_bytes = [](int64_t columns) {  // in panels of 64 columns
    return static_cast<int>(round_up(columns, 64) * 2);
  };
  const int tiles = t.query_stages * t.rows() * row_bytes(head_dim) +
                    t.key_stages * t.keys * row_bytes(head_dim) +
                    t.value_stages * t.keys * row_bytes(head_dim_v);
  const int out = t.staged_out ? t.rows() * kernel::pad16(head_dim_v) * 2 : 0;
  constexpr int tile_in_hand = 96;
  const int barriers = 16 * (t.query_stages + t.key_stages + t.value_stages + 1) + 16;
  return tiles + out + tile_in_hand + barriers;
}

ForwardTile forward_tile(const Problem& p) {
  const int64_t widest = std::max(p.head_dim, p.head_dim_v);
  if (widest <= 64) {
    return {.groups = 3,
            .keys = 128,
            .key_stages = 3,
            .value_stages = 3,
            .query_stages = 2,
            .staged_out = true};
  }
  if (widest <= 128) return {.keys = 128, .query_stages = 2, .staged_out = true};
  return {.keys = 64, .key_stages = 2, .value_stages = 3};
}

}  // namespace fa::sm90
