// Joins what was made of a tile's rows in several shares of its keys:
//   LSE = log(sum_s exp(LSE_s) + exp(sink)),   O = sum_s exp(LSE_s - LSE) O_s
#pragma once

#include "common/config.h"
#include "common/params.h"
#include "ptx/dependent.cuh"
#include "ptx/math.cuh"
#include "ptx/shared.cuh"
#include "tile/copy.cuh"
#include "tile/number.cuh"
#include "tile/rows.cuh"
#include "tile/shares.cuh"

namespace fa::pass {

/// A block has row blockIdx.x of the tiles that begin in some shares and end behind them: of every
/// gridDim.y-th one. Its warps share the parts out, the lanes of a warp the columns.
template <class C>
struct JoinShares {
  using Params = kernel::JoinParams;
  using Element = tile::Format<C::element>;
  static constexpr int warps = 4;
  static constexpr int columns = 4;  ///< of a lane at a time
  static constexpr int passes = (C::head_dim_v + 32 * columns - 1) / (32 * columns);

  const Params& p;
  const kernel::SharedTile& shared_tile;
  const int row;    ///< of the tile
  const int first;  ///< share
  const int parts;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  __device__ long long place(int part) const {
    const tile::Sharers sharers{first, first + parts - 1, first + part};
    return sharers.place() * p.partial.rows + row;
  }
  __device__ float lse_of(int part) const {
    return part < parts ? p.partial.lse[place(part)] : ptx::minus_infinity;
  }

  /// Of some parts, one after the other of each warp: the lane's columns of O.
  static constexpr int group = 32, of_warp = group / warps;
  struct Columns {
    float4 x[of_warp][passes];
  };
  __device__ Columns load(int base) const {
    Columns columns_of;
#pragma unroll
    for (int i = 0; i < of_warp; ++i) {
      const int part = base + i * warps + warp;
      const float* from = p.partial.out + place(part) * C::head_dim_v + columns * lane;
#pragma unroll
      for (int pass = 0; pass < passes; ++pass) {
        const bool there = part < parts && 32 * columns * pass + columns * lane < C::head_dim_v;
        columns_of.x[i][pass] = {0, 0, 0, 0};
        if (there) {
          columns_of.x[i][pass] = *reinterpret_cast<const float4*>(from + 32 * columns * pass);
        }
      }
    }
    return columns_of;
  }

  __device__ void join() const {
    using ptx::minus_infinity;
    const int heads = p.shares.tile_heads, position = row / heads;
    const int head = shared_tile.head + row - position * heads;
    if (shared_tile.row + position >= shared_tile.extent) return;

    Columns o = load(0);  // while LSE is on its way
    float top = minus_infinity;
    for (int part = lane; part < parts; part += 32) {
      const float lse = lse_of(part);
      top = top >= lse || top != top ? top : lse;  // a NaN stays, which fmaxf would pass over
    }
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const float other = __shfl_xor_sync(~0u, top, step);
      top = top >= other || top != top ? top : other;
    }
    const bool unused = top == kernel::unused_row;
    float sink = minus_infinity;
    if constexpr (C::sinks != kernel::Number::none) {
      if (!unused) {
        sink = tile::Format<C::sinks>::load(p.sinks.data, head * p.sinks.head);
        top = fmaxf(top, sink);
      }
    }
    const bool empty = unused || top == minus_infinity;
    const auto weight = [&](float lse) { return empty ? 0 : ptx::exp2((lse - top) * ptx::log2_e); };

    float total = lane == 0 ? weight(sink) : 0, sum[passes][columns] = {};
    for (int base = 0; base < parts; base += group) {
      if (base > 0) o = load(base);
      // mutant "CUDA: join of shares" of emulated: weight(lse_of(base + lane)) => 1.0f
      const float own = weight(lse_of(base + lane));
      total += own;
#pragma unroll
      for (int i = 0; i < of_warp; ++i) {
        const float w = __shfl_sync(~0u, own, i * warps + warp);
#pragma unroll
        for (int pass = 0; pass < passes; ++pass) {
          const float4 part = o.x[i][pass];
          const float x[columns] = {part.x, part.y, part.z, part.w};
#pragma unroll
          for (int e = 0; e < columns; ++e) {
            sum[pass][e] = w == 0 ? sum[pass][e] : fmaf(w, x[e], sum[pass][e]);
          }
        }
      }
    }
#pragma unroll
    for (int step = 1; step < 32; step *= 2) total += __shfl_xor_sync(~0u, total, step);
    store(head, position, sum, empty ? 0 : ptx::reciprocal(total),
          empty ? minus_infinity : top + ptx::log2(total) * (1 / ptx::log2_e));
  }

  /// Adds the warps' sums up, each of the columns by one warp.
  __device__ void store(int head, int position, const float (&sum)[passes][columns], float scale,
                        float lse) const {
    auto* sums = reinterpret_cast<float4*>(ptx::shared_memory());  // [warps][passes][32]
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) {
      sums[(warp * passes + pass) * 32 + lane] = {sum[pass][0], sum[pass][1], sum[pass][2],
                                                  sum[pass][3]};
    }
    __syncthreads();
    const tile::Place at{shared_tile.sequence,
                         head,
                         shared_tile.row,
                         {shared_tile.begin, shared_tile.extent, shared_tile.length}};
    for (int pass = warp; pass < passes; pass += warps) {
      const int column = 32 * columns * pass + columns * lane;
      if (column >= C::head_dim_v) break;
      float x[columns] = {};
#pragma unroll
      for (int w = 0; w < warps; ++w) {
        const float4 part = sums[(w * passes + pass) * 32 + lane];
        x[0] += part.x;
        x[1] += part.y;
        x[2] += part.z;
        x[3] += part.w;
      }
      char* out = const_cast<char*>(tile::row_at(p.out, at, at.row + position)) + 2 * column;
      tile::store_half_chunk<C::alignment>(out, {Element::pack(x[0] * scale, x[1] * scale),
                                                 Element::pack(x[2] * scale, x[3] * scale)});
    }
    if (p.lse.data != nullptr && threadIdx.x == 0)
      tile::statistic(p.lse, at, at.row + position) = lse;
  }

  static __device__ void run(const Params& p) {
    ptx::wait_for_launch_before();
    const int count = *p.shares.count, blocks = static_cast<int>(gridDim.y);
    for (int share = static_cast<int>(blockIdx.y); share < count; share += blocks) {
      const kernel::SharedTile tile = p.shares.tiles[share];
      const int last = tile.last_share;
      if (last < 0) continue;
      JoinShares{p, tile, static_cast<int>(blockIdx.x), share, last - share + 1}.join();
      __syncthreads();  // the next one's sums take the place of these
    }
  }
};

}  // namespace fa::pass
