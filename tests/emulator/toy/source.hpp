// The toy kernels as the library compiles its own: their sources beside those of src/kernels.
#pragma once

#include <span>
#include <string>

#include "cuda/runtime/sources.hpp"
#include "plan/cuda/kernel_spec.hpp"

namespace fa::toy {

/// All of src/kernels, and the toys' files under "toy/".
std::span<const cuda::Source> sources();

KernelSpec ring_spec();
KernelSpec exchange_spec();
/// Entries fa_toy_shape_1 to fa_toy_shape_32.
KernelSpec shapes_spec(bool a_in_registers);

}  // namespace fa::toy
