// NVIDIA's driver, libcuda.so.1, opened when it is first needed.
#pragma once

#include <string>

#include "cuda/runtime/driver_api.hpp"

namespace fa::cuda {

struct Driver {
  int version = 0;  ///< 1000 * major + 10 * minor of the CUDA version that it supports
#define FA_CUDA_MEMBER(member, symbol, parameters) CUresult(*member) parameters = nullptr;
  FA_CUDA_FUNCTIONS(FA_CUDA_MEMBER)
#undef FA_CUDA_MEMBER
};

/// The driver, initialized, or null: none is installed, or it is too old, or it has no device.
const Driver* driver_if_any();
/// Why driver_if_any() is null.
const std::string& driver_problem();
/// Throws Error (unsupported) where driver_if_any() is null.
const Driver& driver();

/// Throws Error (out_of_memory or internal), with the error's name and text, unless `result` is
/// success. what: what was tried, such as "allocating 4096 bytes".
void check(CUresult result, const char* what);

}  // namespace fa::cuda
