// A fragment of products becomes scores, with -inf where a mask hides a key.
#pragma once

#include "common/mask.h"
#include "tile/fragment.cuh"
#include "tile/score.cuh"

namespace fa::tile {

/// Forms the scores of a fragment, whose rows are `rows` (TileRows) and whose keys begin at
/// `first_key`. A step without a mask whose score is the product alone (Score::none) needs no call.
/// visible(row): the keys that it sees (tile/mask.cuh).
template <class C, bool masked, int m_tiles, int n_tiles, typename Rows, typename Visible>
__device__ void form_scores(float (&s)[m_tiles][n_tiles][4], const Score<C>& score,
                            const Rows& rows, int first_key, int lane, const Visible& visible) {
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = rows(fragment_row(m, h, lane)).row;
      const mask::KeyRange seen = visible(row);
      // Counted from the lane's first key, so that the rest of a key is a constant.
      const int lane_key = first_key + fragment_column(0, 0, lane);
      const int begin = static_cast<int>(seen.begin) - lane_key;
      const int end = static_cast<int>(seen.end) - lane_key;
#pragma unroll
      for (int n = 0; n < n_tiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[m][n][2 * h + e];
          const int key = fragment_column(n, e, 0);
          if constexpr (!Score<C>::none) x = score.value(x, {row, lane_key, 0, key});
          if constexpr (masked) {
            // mutant "CUDA: end of the keys" of emulated: key >= end => false
            // mutant "CUDA: window left" of emulated: key < begin => false
            if ((C::window_left && key < begin) || key >= end) x = minus_infinity;
          }
        }
      }
    }
  }
}

}  // namespace fa::tile
