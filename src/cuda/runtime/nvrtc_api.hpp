// The part of NVRTC, NVIDIA's run-time compiler, that is used, declared here. A test compares all
// of it with the real nvrtc.h.
#pragma once

#include <cstddef>

namespace fa::cuda {

using nvrtcResult = int;
using nvrtcProgram = struct nvrtcProgramHandle*;

inline constexpr nvrtcResult nvrtc_success = 0;
inline constexpr nvrtcResult nvrtc_error_compilation = 6;

// Every function: member of `Nvrtc`, symbol, parameters. All return nvrtcResult.
// clang-format off
#define FA_NVRTC_FUNCTIONS(X)                                                                     \
  X(get_version, nvrtcVersion, (int* major, int* minor))                                          \
  X(create, nvrtcCreateProgram, (nvrtcProgram* program, const char* text, const char* name,       \
      int header_count, const char* const* headers, const char* const* header_names))             \
  X(compile, nvrtcCompileProgram, (nvrtcProgram program, int option_count,                        \
      const char* const* options))                                                                \
  X(destroy, nvrtcDestroyProgram, (nvrtcProgram* program))                                        \
  X(log_size, nvrtcGetProgramLogSize, (nvrtcProgram program, size_t* bytes))                      \
  X(log, nvrtcGetProgramLog, (nvrtcProgram program, char* log))                                   \
  X(cubin_size, nvrtcGetCUBINSize, (nvrtcProgram program, size_t* bytes))                         \
  X(cubin, nvrtcGetCUBIN, (nvrtcProgram program, char* cubin))
// clang-format on

}  // namespace fa::cuda
