// Shapes that the kernels of a backward pass agree on: tiles, the place of a row's statistics, and
// the parts of sums that warps have.
#pragma once

#include "common/config.h"
#include "common/params.h"
#include "ptx/reduce.cuh"
#include "tile/accumulate.cuh"
#include "tile/number.cuh"
#include "tile/padded.cuh"
#include "tile/place.cuh"
#include "tile/product.cuh"

namespace fa::sm80 {

using namespace fa::tile;

/// How the plan cuts the kernels (plan/cuda/sm80/backward_tiles.hpp says what each number does).
struct BackwardConfig : kernel::GradientConfig {
  static constexpr int stages = 2;     ///< 1 or 2
  static constexpr int sum_warps = 1;  ///< that share the columns over which S and dP are sums
  static constexpr int query_parts =
      1;  ///< of dQ's columns, one after the other, where they can be
  static constexpr int key_slices = 0;
  static constexpr int value_slices = 0;
  static constexpr bool query_last = false;
};

template <class C>
struct BackwardShapes {
  using Config = C;
  using Element = Format<C::element>;

  static constexpr int threads = 32 * C::warps;
  static constexpr int depth = C::depth;  ///< of Q K^T: head_dim, padded so that warps can share it
  static constexpr int width = C::width;  ///< of V, likewise

  /// Two warps share 96 columns, and four 192, as 48, which are not an even part of wider panels.
  static constexpr int panel_of(int columns) {
    return columns % 96 == 0 ? 16 : widest_panel(columns);
  }

  using QueryTile = SharedTile<C::rows, depth, panel_of(depth)>;
  using KeyTile = SharedTile<C::keys, depth, panel_of(depth)>;
  using DoutTile = SharedTile<C::rows, width, panel_of(width)>;
  using ValueTile = SharedTile<C::keys, width, panel_of(width)>;
  using ScoreTile = SharedTile<C::keys, C::rows>;

  /// S^T and dP^T: keys from above, rows side by side. `sum_warps` neighbours have the same keys
  /// and rows.
  struct ScoreGrid : WarpGrid<C::warps / C::sum_warps, C::keys, C::rows, C::row_warps> {
    using Grid = WarpGrid<C::warps / C::sum_warps, C::keys, C::rows, C::row_warps>;
    static __device__ int row(int warp) { return Grid::row(warp / C::sum_warps); }
    static __device__ int column(int warp) { return Grid::column(warp / C::sum_warps); }
  };
  /// The warp's part of the columns over which S and dP are sums.
  static __device__ int sum_part(int warp) { return warp % C::sum_warps; }
  using QueryGrid = WarpGrid<C::warps, C::rows, depth,
                             column_warps<KeyTile, C::warps, C::rows, depth>(
                                 C::column_warps > C::warps / 2 ? C::column_warps : C::warps / 2)>;
  using KeyGrid = WarpGrid<C::warps, C::keys, depth,
                           column_warps<QueryTile, C::warps, C::keys, depth>(C::column_warps)>;
  using ValueGrid = WarpGrid<C::warps, C::keys, width,
                             column_warps<DoutTile, C::warps, C::keys, width>(C::column_warps)>;
  /// dS^T or P^T of a step, as a warp has it.
  using Scores = float[ScoreGrid::m_tiles][ScoreGrid::n_tiles][4];
  /// dS^T or P^T as the operand A of a product over rows.
  using Operand = KeptSlices<ScoreGrid::n_tiles / 2, ScoreGrid::m_tiles>;

  /// dQ of a step is formed in parts of its columns, one after the other, for the registers.
  static constexpr int query_parts = QueryGrid::n_tiles % (2 * C::query_parts) == 0 &&
                                             (QueryGrid::n_tiles & (QueryGrid::n_tiles - 1)) == 0
                                         ? C::query_parts
                                         : 1;

  // The order of the sums in global memory, to which the main kernel adds. pass/finish.cuh reads
  // them.
  using QuerySum = FragmentOrder<QueryGrid, query_parts>;
  using KeySum = FragmentOrder<KeyGrid, 1>;
  using ValueSum = FragmentOrder<ValueGrid, 1>;
};

}  // namespace fa::sm80
