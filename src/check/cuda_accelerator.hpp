// A CUDA device for the checks.
#pragma once

#include <memory>
#include <string>

#include "check/accelerator.hpp"

namespace fa::check {

/// FA_CUDA of the C ABI, DLPack's kDLCUDA.
inline constexpr int32_t cuda_device_type = 2;

/// Throws Error: there is no driver, no such device, or it is too old.
std::unique_ptr<Accelerator> cuda_accelerator(int32_t id);

/// Why cuda_accelerator(0) would throw; empty when it would not.
std::string no_cuda_reason();

/// Name, compute capability and driver in words.
std::string cuda_text(int32_t id);

}  // namespace fa::check
