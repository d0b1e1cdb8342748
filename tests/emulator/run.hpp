// Runs kernels that are host code.
#pragma once

#include <cstddef>

#include "emulator/kernels/emulator.hpp"

namespace emulator {

inline constexpr char poison = '\xff';  ///< NaN in all formats

using Call = void (*)(const void* parameters);

/// What a kernel is bound to before it is called.
extern const Runtime the_runtime;

struct Launch {
  Index grid{1, 1, 1};   ///< in blocks
  unsigned threads = 0;  ///< of a block
  size_t shared_bytes = 0;
  unsigned cluster = 1;  ///< blocks of a cluster, along x
  unsigned seed = 1;     ///< of the order in which things happen
};

/// Ends the program, with a word, where a kernel does what is wrong on a device (docs/emulator.md).
void launch(Call call, const Launch& shape, const void* parameters);

}  // namespace emulator
