// A plan of a pass on a CUDA device: kernels in the order in which they are launched.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "plan/cuda/gpu.hpp"
#include "plan/cuda/kernel_spec.hpp"
#include "problem/problem.hpp"

namespace fa {

/// Names what the blocks of a launch divide. The launch code chooses the kernel's struct of
/// parameters (src/kernels/common/params.h), and its Order, by it.
enum class Over {
  rows,       ///< tiles of query rows; heads, or rows of a bias, in the kernels of their gradients
  keys,       ///< tiles of keys
  key_parts,  ///< tiles of keys, a block for each part of the query heads
  splits,     ///< rows whose splits are joined
  shares,     ///< tiles of query rows whose shares are joined
  tiles,      ///< tiles of query rows, one after the other by blocks that stay
  key_tiles,  ///< the same with tiles of keys, for each part of the query heads
};

/// Numbers of blocks. Where one is 0, nothing is launched.
struct Grid {
  unsigned x = 1, y = 1, z = 1;
  bool empty() const { return x == 0 || y == 0 || z == 0; }
};

struct Launch {
  KernelSpec kernel;
  Over over = Over::rows;
  Grid grid;
  /// Over key_parts and key_tiles: how often it is launched, for one sequence, or one key head of
  /// it, after the other.
  int sequences = 1, heads = 1;
  bool dependent = false;  ///< its blocks may begin early, and wait for the launch before
};

/// The part that the plans of both passes have in common.
struct CudaPlan {
  Problem problem;
  GpuLimits gpu;
  std::vector<Launch> launches;
  size_t workspace_bytes = 0;

  /// Whether there is nothing to write.
  bool empty() const {
    return std::ranges::all_of(launches, [](const Launch& l) { return l.grid.empty(); });
  }
  /// The kernel of that name, or null.
  const KernelSpec* kernel(std::string_view entry) const {
    const auto found = std::ranges::find(launches, entry, [](const Launch& launch) {
      return std::string_view(launch.kernel.entry);
    });
    return found == launches.end() ? nullptr : &found->kernel;
  }
};

}  // namespace fa
