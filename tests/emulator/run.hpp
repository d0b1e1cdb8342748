// Runs kernels that are host code.
#pragma once

#include <cstddef>

#include "emulator/kernels/emulator.hpp"

#undef threadIdx
#undef blockIdx
#undef gridDim

namespace emulator {

inline constexpr char poison = '\xff';  ///< NaN in all formats

using Call = void (*)(const void* parameters);

/// What a kernel is bound to before it is called.
extern const Runtime the_runtime;

/// Ends the program, with a word, where threads would wait for ever or a block writes behind its
/// shared memory.
void launch(Call call, Index grid, unsigned threads, size_t shared_bytes, const void* parameters);

}  // namespace emulator
