#pragma once
#include "emulator.hpp"

namespace fa::ptx {

/// One lane, and not the first: who takes it for lane 0 is wrong.
inline bool elect() {
  __syncwarp();
  return emulator::lane() == 17;
}

/// All that shows of registers here is that whole warps give and take them.
template <int count>
void give_registers() {
  static_assert(count % 8 == 0 && count >= 24 && count <= 256);
  __syncwarp();
}
template <int count>
void take_registers() {
  give_registers<count>();
}

}  // namespace fa::ptx
