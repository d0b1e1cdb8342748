// A warp's products become P^T, by S^T, and dS^T, by P^T and dP^T. A fragment [m][n][4] has keys as
// its rows and query rows as its columns. S: the family's shapes (sm80/backward_shapes.cuh is one).
#pragma once

#include "tile/fragment.cuh"
#include "tile/number.cuh"
#include "tile/padded.cuh"
#include "tile/rows_in_sight.cuh"
#include "tile/score.cuh"

namespace fa::tile {

/// The place of a warp's fragments in a tile of query rows and among the keys of its block.
template <class S>
struct ScorePlace {
  using Grid = S::ScoreGrid;

  int tile_row, first_key;  ///< of the tile and of the block, in the sequence
  int warp, lane;

  /// The lane's first row, counted from the tile's first.
  __device__ int row_in_tile() const { return Grid::column(warp) + fragment_column(0, 0, lane); }
  __device__ int key(int m, int h) const {
    return first_key + Grid::row(warp) + fragment_row(m, h, lane);
  }
};

/// For float16: dS is multiplied by 2 to this power, so that it fits its format. `query`: of the
/// first of the heads that a block takes. |dP - delta| is at most twice |dO| |V| / (1 - p), and
/// |dLSE|; dS is that times the slope.
template <class C>
__device__ float gradient_bits(const kernel::BackwardParams& p, const Place& keys,
                               const Place& query) {
  float dout_square = 0, dlse = 0;
  for (int head = query.head; head < query.head + p.part_heads; ++head) {
    dout_square = fmaxf(dout_square, *range_of(p, Range::dout, keys.sequence, head));
    dlse = fmaxf(dlse, *range_of(p, Range::dlse, keys.sequence, head));
  }
  const float values = *range_of(p, Range::values, keys.sequence, keys.head);
  // Not their product, which may be beyond float32.
  const float product = 0.5f * (ptx::log2(dout_square) + ptx::log2(values));
  const float slope = Score<C>::slope_bits(p.score, keys.sequence, query.head, p.part_heads);
  const float bound =
      fmaxf(product + ptx::log2(p.dropout.keep_scale) + 1, ptx::log2(dlse)) + (1 + slope);
  return fminf(fmaxf(14 - ceilf(bound), -110), 110);
}

/// What the sums of dV lack: P's factor of float16, and what dropout divides by.
template <class C>
__device__ float value_scale(const kernel::BackwardParams& p) {
  constexpr float unscale = 1.0f / (1u << static_cast<int>(Format<C::element>::gradient_headroom));
  return (C::dropout ? p.dropout.keep_scale : 1) * unscale;
}

/// P^T = exp(S^T - LSE) (line 11 of Algorithm 2) from S^T, and the slopes of the scores. `factor`:
/// Score::factor. lse_of(n): of the rows of the lane's columns 8 n and 8 n + 1.
template <class S, typename LseOf, class C = S::Config>
__device__ void form_probabilities(typename S::Scores& s, typename S::Scores& slopes,
                                   const Score<C>& score, float factor, const ScorePlace<S>& place,
                                   const LseOf& lse_of) {
  using Element = S::Element;
  const int row0 = place.row_in_tile();
#pragma unroll
  for (int m = 0; m < S::ScoreGrid::m_tiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int key = place.key(m, h);
#pragma unroll
      for (int n = 0; n < S::ScoreGrid::n_tiles; ++n) {
        const float2 pair = lse_of(n);
        const float lse[2] = {pair.x, pair.y};
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[m][n][2 * h + e];
          if constexpr (!Score<C>::none) {
            const ScoreAt at{place.tile_row + row0, key, 8 * n + e, 0};
            const float added = score.bias_at(at.row + at.rows_on, at.key);
            x = score.value(x, at, added, slopes[m][n][2 * h + e]);
          }
          // P is at most 1, also where scores are so large that their float32 LSE is far off.
          // The compiler would keep 0 - LSE, which is not -LSE where that is 0.
          const float shift =
              Element::gradient_headroom == 0 ? -lse[e] : Element::gradient_headroom - lse[e];
          x = ptx::exp2(ptx::min_or_nan(fmaf(x, factor, shift), Element::gradient_headroom));
        }
      }
    }
  }
}
/// `lse_at`: the tile's LSE in shared memory.
template <class S, class C = S::Config>
__device__ void form_probabilities(typename S::Scores& s, typename S::Scores& slopes,
                                   const Score<C>& score, float factor, const ScorePlace<S>& place,
                                   u32 lse_at) {
  const u32 at = lse_at + 4 * place.row_in_tile();
  form_probabilities<S>(s, slopes, score, factor, place,
                        [&](int n) { return ptx::load_floats(at + 32 * n); });
}

/// Sets P^T to 0 where a row does not see a key, before P is rounded: after the rounding it made
/// sm80 4% slower at head_dim 96 without a mask, by its spills.
template <class S>
__device__ void hide_unseen(typename S::Scores& x, const RowsInSight<typename S::Config>& sight,
                            const ScorePlace<S>& place) {
  const int row0 = place.tile_row + place.row_in_tile();
#pragma unroll
  for (int m = 0; m < S::ScoreGrid::m_tiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const RowSpan seen = sight.rows_of(place.key(m, h));
#pragma unroll
      for (int n = 0; n < S::ScoreGrid::n_tiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int row = row0 + 8 * n + e;
          // mutant "CUDA: hidden keys of dP" of emulated: row < seen.begin => false
          if (row < seen.begin || (S::Config::window_left && row >= seen.end)) {
            x[m][n][2 * h + e] = 0;
          }
        }
      }
    }
  }
}

/// dS^T = P^T (dP^T - delta) (line 14) times `scale`, of P as the products have it. `delta_at`: the
/// tile's delta in shared memory.
template <class S>
__device__ void form_gradients(const typename S::Operand& p_left, typename S::Scores& dp,
                               float scale, const ScorePlace<S>& place, u32 delta_at) {
  using Element = S::Element;
  const int row0 = place.row_in_tile();
#pragma unroll
  for (int n = 0; n < S::ScoreGrid::n_tiles; ++n) {
    const float2 pair = ptx::load_floats(delta_at + 4 * (row0 + 8 * n));
    const float delta[2] = {pair.x, pair.y};
#pragma unroll
    for (int m = 0; m < S::ScoreGrid::m_tiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const u32 both = p_left.slice[n / 2][m][n % 2 * 2 + h];
        const float x[2] = {Element::low(both), Element::high(both)};
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& y = dp[m][n][2 * h + e];
          // mutant "CUDA: delta" of emulated: y - delta[e] => y
          y = x[e] * ((y - delta[e]) * scale);
        }
      }
    }
  }
}

/// The same of P before its rounding, which takes twice the registers.
template <class S>
__device__ void form_gradients(const typename S::Scores& p, typename S::Scores& dp, float scale,
                               const ScorePlace<S>& place, u32 delta_at) {
  const int row0 = place.row_in_tile();
#pragma unroll
  for (int n = 0; n < S::ScoreGrid::n_tiles; ++n) {
    const float2 delta = ptx::load_floats(delta_at + 4 * (row0 + 8 * n));
#pragma unroll
    for (int m = 0; m < S::ScoreGrid::m_tiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& y = dp[m][n][i];
        y = p[m][n][i] * ((y - (i % 2 == 0 ? delta.x : delta.y)) * scale);
      }
    }
  }
}

/// Which elements of a fragment dropout drops: bit e of [m][n].
template <class S>
using Dropped = u32[S::ScoreGrid::m_tiles][S::ScoreGrid::n_tiles];

/// Sets what is dropped of a fragment to 0.
template <class S>
__device__ void drop(typename S::Scores& x, const Dropped<S>& dropped) {
#pragma unroll
  for (int m = 0; m < S::ScoreGrid::m_tiles; ++m) {
#pragma unroll
    for (int n = 0; n < S::ScoreGrid::n_tiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        // mutant "CUDA: dropout of P and dP" of emulated: dropped[m][n] >> e & 1 => false
        if (dropped[m][n] >> e & 1) x[m][n][e] = 0;
      }
    }
  }
}

}  // namespace fa::tile
