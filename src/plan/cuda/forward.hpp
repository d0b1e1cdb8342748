// How a CUDA device runs a forward pass: launches, splits, workspace. Pure functions of the problem
// and the device's limits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "plan/cuda/family.hpp"
#include "plan/cuda/launch.hpp"
#include "plan/cuda/sm80/forward_tiles.hpp"
#include "plan/cuda/sm90/forward_tiles.hpp"

namespace fa {

/// A tile of family sm80, or of sm90.
using FamilyTile = std::variant<ForwardTile, sm90::ForwardTile>;

/// Choices that tests and measurements may make. The plan makes those that are not given.
struct ForwardTuning {
  std::optional<FamilyTile> tile;  ///< its family then serves
  std::optional<int> splits;
  std::optional<int> section;
};

/// The main kernel; where the keys are split or shared out, one that joins the parts follows.
struct CudaForwardPlan : CudaPlan {
  ForwardKernel::Cut cut;
  std::string tile_text;
  int blocks = 0;            ///< tiles of rows of all heads
  int row_tiles = 0;         ///< of a head, all packed sequences together
  int section = 1;           ///< heads whose tiles alternate: their K and V stay in L2
  int splits = 1;            ///< along the keys, each in a block of its own
  int split_keys = 0;        ///< keys of a split
  int shares = 0;            ///< most equal shares of all tiles' steps; 0: the tiles are not shared
  int64_t partial_rows = 0;  ///< rows of all heads, or of a tile, whose partial O and LSE are kept
  bool copies_out = false;   ///< by the copy engine: the kernel wants a map of out
  int page_rows = 0;         ///< the maps of K and V are of pages, with boxes of these rows
  int bias_box_rows = 0;     ///< the kernel wants a map of the bias, with boxes of these rows
  size_t shared_tiles = 0;   ///< where the workspace has a kernel::SharedTile for each share
  bool claims = false;       ///< a kernel::TileCounter at the workspace's end hands out tiles

  const KernelSpec& main() const { return launches.front().kernel; }
};

/// Throws Error (unsupported) for what CUDA devices are not offered.
CudaForwardPlan plan_cuda_forward(const Problem& problem, const GpuLimits& gpu,
                                  const ForwardTuning& tuning = {});
std::string to_text(const CudaForwardPlan& plan);

/// Rows of all heads, kernel::joined_rows to a block. Throws Error (unsupported, naming `out`) for
/// too many.
unsigned blocks_that_join(int64_t rows);

/// The kernel that joins two attentions of this dtype.
KernelSpec merge_kernel(DType dtype);

}  // namespace fa
