// Which keys a row sees.
#pragma once

#include "common/mask.h"
#include "common/params.h"

namespace fa::tile {

/// Keys that row `row` of a sequence sees. left, right: whether the window ends there.
template <bool left, bool right>
__device__ mask::KeyRange visible_keys(const kernel::Window& window, long long row, int q_len,
                                       int k_len) {
  return mask::key_range(row, q_len, k_len, left ? window.left : -1, right ? window.right : -1);
}

}  // namespace fa::tile
