// A fragment of products becomes scores, with -inf where a mask hides a key.
#pragma once

#include "common/mask.h"
#include "tile/bias.cuh"
#include "tile/fragment.cuh"
#include "tile/score.cuh"

namespace fa::tile {

/// Forms the scores of a fragment, whose rows are `rows` (TileRows) and whose keys begin at
/// `first_key`. A step without a mask whose score is the product alone (Score::none) needs no call.
/// visible(row): the keys that it sees (tile/mask.cuh). `bias`: where it is read (tile/bias.cuh).
template <class C, bool masked, int m_tiles, int n_tiles, typename Rows, typename Visible,
          typename Bias>
__device__ void form_scores(float (&s)[m_tiles][n_tiles][4], const Score<C>& score,
                            const Rows& rows, int first_key, int lane, const Visible& visible,
                            const Bias& bias) {
  static_assert(n_tiles % 2 == 0);
  // Keys are counted from the lane's first one, so that the rest of a key is a constant.
  const int lane_key = first_key + fragment_column(0, 0, lane);
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) {
    int row[2], begin[2], end[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      row[h] = rows(fragment_row(m, h, lane)).row;
      const mask::KeyRange seen = visible(row[h]);
      begin[h] = static_cast<int>(seen.begin) - lane_key;
      end[h] = static_cast<int>(seen.end) - lane_key;
    }
#pragma unroll
    for (int n = 0; n < n_tiles; n += 2) {
      BiasPair added;
      bias.load(added, row, lane_key, n);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& x = s[m][n + i][e];
          const int key = fragment_column(n + i, e % 2, 0);
          if constexpr (!Score<C>::none) {
            float slope;
            x = score.value(x, {row[e / 2], lane_key, 0, key}, added[i][e], slope);
          }
          if constexpr (masked) {
            // mutant "CUDA: end of the keys" of emulated: key >= end[e / 2] => false
            // mutant "CUDA: window left" of emulated: key < begin[e / 2] => false
            if ((C::window_left && key < begin[e / 2]) || key >= end[e / 2]) x = minus_infinity;
          }
        }
      }
    }
  }
}

}  // namespace fa::tile
