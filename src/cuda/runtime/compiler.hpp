// From a kernel's specification to machine code, with NVRTC.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "cuda/runtime/sources.hpp"
#include "plan/cuda/kernel_spec.hpp"

namespace fa::cuda {

/// Options of the compiler for every kernel; the architecture comes beside them. 177 is the warning
/// about unused names, which would fill the logs.
inline constexpr const char* compile_options[] = {"-std=c++20", "-default-device",
                                                  "-diag-suppress=177"};

/// A cubin for "sm_80", "sm_90a" ... The program of the spec includes `headers` by their names.
/// Throws Error (unsupported) where there is no NVRTC, and Error (internal, with its log) where
/// NVRTC refuses the program or ptxas would serialize its wgmma. warnings: gets the log of a
/// success.
std::vector<char> compile(const KernelSpec& spec, const std::string& arch,
                          std::span<const Source> headers = sources(),
                          std::string* warnings = nullptr);

}  // namespace fa::cuda
