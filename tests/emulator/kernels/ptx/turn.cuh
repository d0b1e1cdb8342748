#pragma once
#include "emulator.hpp"

namespace fa::ptx {

inline void wait_for_turn(const int* counter, int turn) {
  while (*counter < turn) emulator::runtime->spin();
  __syncthreads();
}
inline void pass_turn(int* counter) {
  __syncthreads();
  if (threadIdx.x == 0) ++*counter;
}

}  // namespace fa::ptx
