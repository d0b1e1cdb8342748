#pragma once
#include "emulator.hpp"

namespace fa::ptx {

using u32 = unsigned;

inline void mbarrier_init(u32 barrier, int arrivals) {
  emulator::runtime->mbarrier_init(barrier, arrivals);
}
inline void fence_mbarrier_init() { emulator::runtime->fence_mbarriers(); }
inline void mbarrier_arrive(u32 barrier) { emulator::runtime->mbarrier_arrive(barrier, 0); }
inline void mbarrier_arrive_expect(u32 barrier, int bytes) {
  emulator::runtime->mbarrier_arrive(barrier, bytes);
}
inline void mbarrier_wait(u32 barrier, u32 parity) {
  emulator::runtime->mbarrier_wait(barrier, parity);
}

}  // namespace fa::ptx
