// What a kernel takes of a multiprocessor, read from its machine code.
#pragma once

#include <span>
#include <string>

#include "cuda/runtime/digest.hpp"

namespace fa::cuda {

struct CubinUse {
  int registers = 0;    ///< of a thread
  int local_bytes = 0;  ///< of a thread: spilled registers, arrays
  Digest code;          ///< of its instructions
};

/// Throws Error (internal) when the code is none of NVIDIA's, damaged, or lacks the kernel.
CubinUse cubin_use(std::span<const char> cubin, const std::string& entry);

}  // namespace fa::cuda
