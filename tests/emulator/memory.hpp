// Device memory of the emulator.
#pragma once

#include <cstddef>

namespace emulator {

/// Aligned to 256 bytes and full of NaN. Pages that nobody may touch lie before it and less than
/// 256 bytes behind it, and what was released is such a page, too: a kernel that goes astray ends
/// the program. Null where there is no memory.
void* allocate(size_t bytes);
void release(void* memory);

}  // namespace emulator
