// How a CUDA device runs a backward pass: kernels, tiles, grids, workspace. Pure functions of the
// problem and the device's limits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "plan/gpu.hpp"
#include "plan/kernel_spec.hpp"
#include "plan/sm80_backward_tiles.hpp"
#include "problem/problem.hpp"

namespace fa {

struct CudaBackwardPlan {
  Problem problem;
  GpuLimits gpu;
  BackwardTile tile;
  KernelSpec prepare, backward, finish;
  std::optional<KernelSpec> values;  ///< float16: how large dS may become
  std::optional<KernelSpec> sinks;   ///< where their gradient is asked for
  int key_tiles = 0;                 ///< of a key head, all packed sequences together
  int row_tiles = 0;                 ///< of a query head
  int section = 1;                   ///< key heads whose tiles alternate: their Q and dO stay in L2
  int blocks = 0;                    ///< of the main kernel: key tiles of all key heads
  int row_blocks = 0;        ///< of the kernels before and after it: row tiles of all query heads
  int64_t padded_rows = 0;   ///< of a query head, each sequence beginning with a tile of its own
  int64_t dq_sum_bytes = 0;  ///< dQ in float32
  int64_t statistics_bytes = 0;  ///< LSE, and as much for delta
  int64_t turns_bytes = 0;       ///< of counters, where deterministic
  int64_t ranges_bytes = 0;      ///< of dO's, dLSE's and V's, for float16
  size_t workspace_bytes = 0;
};

/// Throws Error (unsupported) for what CUDA devices are not offered.
CudaBackwardPlan plan_cuda_backward(const Problem& problem, const GpuLimits& gpu,
                                    const std::optional<BackwardTile>& tile = {});
std::string to_text(const CudaBackwardPlan& plan);

}  // namespace fa
