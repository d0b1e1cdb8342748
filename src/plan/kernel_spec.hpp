// One device kernel as it is to be compiled: a source of src/kernels and the constants before it.
#pragma once

#include <string>

namespace fa {

struct KernelSpec {
  std::string source;    ///< file under src/kernels: "sm80/forward.cuh"
  std::string entry;     ///< its `extern "C"` kernel: "fa_sm80_forward"
  std::string config;    ///< `constexpr` lines that the source reads
  int threads = 0;       ///< of a block
  int shared_bytes = 0;  ///< dynamic shared memory of a block
  friend bool operator==(const KernelSpec&, const KernelSpec&) = default;
};

}  // namespace fa
