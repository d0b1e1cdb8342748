#pragma once
#include "emulator.hpp"

namespace fa::ptx {

template <int threads>
void barrier_sync(int name) {
  emulator::runtime->barrier(name, threads, true);
}
template <int threads>
void barrier_arrive(int name) {
  emulator::runtime->barrier(name, threads, false);
}

}  // namespace fa::ptx
