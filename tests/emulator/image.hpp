// What the emulator's compiler gives in place of a cubin: this, then a shared library.
#pragma once

#include <cstddef>

namespace emulator {

inline constexpr char image_magic[8] = {'F', 'A', '-', 'e', 'm', 'u', '-', '1'};

struct Image {
  char magic[8];
  size_t bytes;
};

}  // namespace emulator
