// The family sm90: Hopper's copy engine and the tensor cores of its warp groups.
#pragma once

#include "plan/cuda/family.hpp"
#include "plan/cuda/sm90/backward_tiles.hpp"
#include "plan/cuda/sm90/forward_tiles.hpp"

namespace fa::sm90 {

Offered<ForwardKernel> forward(const Problem& problem, const GpuLimits& gpu);
Offered<BackwardKernel> backward(const Problem& problem, const GpuLimits& gpu);

/// The kernels with a tile that the caller chose.
ForwardKernel forward(const Problem& problem, const ForwardTile& tile);
BackwardKernel backward(const Problem& problem, const BackwardTile& tile);
BackwardKernel backward(const Problem& problem, const WideBackwardTile& tile);

}  // namespace fa::sm90
