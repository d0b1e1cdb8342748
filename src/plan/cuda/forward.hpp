// How a CUDA device runs a problem: kernels, tiles, grid, splits, workspace. Pure functions of the
// problem and the device's limits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "plan/cuda/gpu.hpp"
#include "plan/cuda/kernel_spec.hpp"
#include "plan/cuda/sm80/forward_tiles.hpp"
#include "problem/problem.hpp"

namespace fa {

/// What measurements and tests set by hand; the plan decides what is not given.
struct CudaTuning {
  std::optional<ForwardTile> tile;
  std::optional<int> splits;
  std::optional<int> section;
};

struct CudaPlan {
  Problem problem;
  GpuLimits gpu;
  ForwardTile tile;
  KernelSpec forward;
  std::optional<KernelSpec> combine;  ///< where the keys are split
  int row_tiles = 0;                  ///< of a head, all packed sequences together
  int section = 1;                    ///< heads whose tiles alternate: their K and V stay in L2
  int splits = 1;                     ///< along the keys, each in a block of its own
  int split_keys = 0;                 ///< keys of a split
  int64_t blocks = 0;                 ///< along the grid's first dimension: row tiles of all heads
  int64_t partial_rows = 0;  ///< rows of all heads, whose partial O and LSE each split keeps
  size_t workspace_bytes = 0;
};

/// Throws Error (unsupported) for what CUDA devices are not offered.
CudaPlan plan_cuda(const Problem& problem, const GpuLimits& gpu, const CudaTuning& tuning = {});
std::string to_text(const CudaPlan& plan);

/// The kernel that joins two attentions of this dtype.
KernelSpec merge_kernel(DType dtype);

}  // namespace fa
