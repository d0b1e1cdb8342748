// The family sm80: the paper's kernels, for every GPU since A100.
#pragma once

#include "plan/cuda/family.hpp"
#include "plan/cuda/sm80/backward_tiles.hpp"
#include "plan/cuda/sm80/forward_tiles.hpp"

namespace fa::sm80 {

/// They serve every problem that CUDA devices are offered; throw Error (unsupported) where no tile
/// fits the GPU.
Offered<ForwardKernel> forward(const Problem& problem, const GpuLimits& gpu);
Offered<BackwardKernel> backward(const Problem& problem, const GpuLimits& gpu);

/// The kernels with a tile that the caller chose.
ForwardKernel forward(const Problem& problem, const ForwardTile& tile);
BackwardKernel backward(const Problem& problem, const BackwardTile& tile);

}  // namespace fa::sm80
