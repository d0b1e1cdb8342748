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

inline bool take_first_turn(int* counter) {
  if (*counter != 0) return false;
  *counter = 1;
  return true;
}

inline void publish(unsigned long long* to, unsigned long long number, bool does) {
  if (does) *to = number;
}
inline void wait_until_published(const unsigned long long* by, unsigned long long number) {
  while (*by != number) emulator::runtime->spin();
}

inline int take_number(int* counter, bool takes) { return takes ? (*counter)++ : 0; }

}  // namespace fa::ptx
