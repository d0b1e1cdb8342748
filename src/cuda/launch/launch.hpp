// What launches of kernels have in common: parameters made of a call.
#pragma once

#include <cstdint>

#include "cuda/runtime/kernel_store.hpp"
#include "kernels/common/params.h"
#include "plan/cuda/launch.hpp"
#include "problem/problem.hpp"

namespace fa::cuda {

kernel::View view(const Rows& rows);

/// What both passes take from the call, and the order of their tiles.
kernel::ForwardParams common_params(const Problem& p, const Call& call, int tiles, int section);
void set_order(kernel::ForwardParams& params, int tiles, int section);

/// `params`: what the kernel's only parameter is.
void launch(const LoadedKernel& kernel, const KernelSpec& spec, Grid grid, const void* params,
            void* stream);

}  // namespace fa::cuda
