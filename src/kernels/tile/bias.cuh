// The bias of a fragment of scores: read from memory number by number, or from a tile of it that
// the copy engine has brought.
#pragma once

#include "ptx/shared.cuh"
#include "tile/fragment.cuh"
#include "tile/number.cuh"
#include "tile/panels.cuh"
#include "tile/score.cuh"

namespace fa::tile {

/// The lane's numbers of two n tiles next to each other.
using BiasPair = float[2][4];

/// Also where there is no bias.
template <class C>
struct BiasInMemory {
  const Score<C>& score;

  /// rows[h]: of the lane; `lane_key`: its first key. Of the n tiles `n` and n + 1.
  __device__ void load(BiasPair& bias, const int (&rows)[2], int lane_key, int n) const {
    if constexpr (C::bias != Number::none) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          bias[i][e] = score.bias_at(rows[e / 2], lane_key + fragment_column(n + i, e % 2, 0));
        }
      }
    }
  }
};

/// Columns of 16 bits of a tile of the bias: float32 numbers have two each.
template <class C>
inline constexpr int bias_columns = C::bias == Number::float32 ? 2 * C::keys : C::keys;

/// Tile: a PanelTile with all keys of a step. `per_row`: it has all rows, else one that they share.
template <class C, class Tile, bool per_row>
class BiasInTile {
 public:
  /// `shared`: the warp's first row. `rows`: of the sequence, that count.
  __device__ BiasInTile(u32 shared, int lane, int rows) : rows_(rows) {
    if constexpr (by_matrix) {
      at_ = shared + lane % 16 * Tile::row_bytes + lane / 16 * 16;
    } else {
      at_ = shared + (per_row ? lane / 4 * Tile::row_bytes : 0) + lane % 4 * 2 * bytes;
    }
    at_ = kernel::swizzled(at_, kernel::Swizzle::within_128);
  }

  __device__ void load(BiasPair& bias, const int (&rows)[2], int /*lane_key*/, int n) const {
    read(bias, n);
    if constexpr (C::used_q) {  // what stands behind the rows may be anything
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        if (rows[e / 2 % 2] >= rows_) bias[e / 4][e % 4] = 0;
      }
    }
  }

 private:
  static constexpr int bytes = C::bias == Number::float32 ? 4 : 2;
  static constexpr bool by_matrix = per_row && bytes == 2;
  u32 at_;
  int rows_;

  __device__ void read(BiasPair& bias, int n) const {
    if constexpr (by_matrix) {
      u32 x[4];  // as stmatrix puts a slice of P: PanelTile::put
      ptx::ldmatrix(x, address(8 * n));
#pragma unroll
      for (int i = 0; i < 4; ++i) unpack(bias[i / 2][i % 2 * 2], bias[i / 2][i % 2 * 2 + 1], x[i]);
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const u32 from = address(8 * (n + i)) + (per_row ? h * 8 * Tile::row_bytes : 0);
          float &x = bias[i][2 * h], &y = bias[i][2 * h + 1];
          if (!per_row && h == 1) {
            x = bias[i][0], y = bias[i][1];
          } else if constexpr (C::bias == Number::float32) {
            const float2 pair = ptx::load_floats(from);
            x = pair.x, y = pair.y;
          } else {
            unpack(x, y, __float_as_uint(ptx::load_float(from)));
          }
        }
      }
    }
  }

  /// Of the lane's numbers `key` keys, a multiple of 8, after its first.
  __device__ u32 address(int key) const {
    const int byte = key * bytes;
    return (at_ ^ byte % Tile::row_bytes) + byte / Tile::row_bytes * Tile::panel_bytes;
  }
  static __device__ void unpack(float& low, float& high, u32 pair) {
    low = Format<C::bias>::low(pair);
    high = Format<C::bias>::high(pair);
  }
};

}  // namespace fa::tile
