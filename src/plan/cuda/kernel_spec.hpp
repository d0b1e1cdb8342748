// One device kernel as it is to be compiled and launched.
#pragma once

#include <string>

namespace fa {

struct KernelSpec {
  std::string entry;      ///< its `extern "C"` name: "fa_sm80_forward"
  std::string program;    ///< what NVRTC is given; it includes files of src/kernels
  std::string constants;  ///< its Config in one line: "element=bfloat16 head_dim=128 packed_q"
  int threads = 0;        ///< of a block
  int min_blocks = 0;     ///< that a multiprocessor has registers for; 0: as the compiler likes
  int shared_bytes = 0;   ///< dynamic shared memory of a block
  friend bool operator==(const KernelSpec&, const KernelSpec&) = default;
};

}  // namespace fa
