// NVRTC, NVIDIA's run-time compiler, opened when something is compiled.
#pragma once

#include <string>

#include "cuda/runtime/nvrtc_api.hpp"

namespace fa::cuda {

struct Nvrtc {
  std::string path;
  std::string identity;
  int major = 0;
  int minor = 0;
#define FA_NVRTC_MEMBER(member, symbol, parameters) nvrtcResult(*member) parameters = nullptr;
  FA_NVRTC_FUNCTIONS(FA_NVRTC_MEMBER)
#undef FA_NVRTC_MEMBER
};

/// Found as docs/cuda.md says and opened once; where that fails, the next call tries again. Throws
/// Error (unsupported) with the places that were looked at.
const Nvrtc& nvrtc();

/// The compiler's part of the disk cache's keys: path, size and time of change of the file that
/// nvrtc() has opened, or would try first. It costs microseconds, opening 15 ms. Empty when there
/// is none.
std::string nvrtc_identity();

}  // namespace fa::cuda
