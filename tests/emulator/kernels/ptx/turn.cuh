#pragma once
#include "emulator.hpp"

namespace fa::ptx {

inline int look_at_turn(const int* counter) { return *counter; }
inline void wait_for_turn(const int* counter, int turn, int seen = -1) {
  while (seen < turn) {
    emulator::runtime->spin();
    seen = *counter;
  }
}
inline void pass_turn(int* counter) { ++*counter; }

inline int take_number(int* counter) { return (*counter)++; }

}  // namespace fa::ptx
