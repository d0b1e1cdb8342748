#pragma once
#include "emulator.hpp"

namespace fa::ptx {

using u32 = unsigned;

template <int bytes>
void cp_async(u32 shared, const void* global, bool valid) {
  emulator::runtime->copy_async(shared, global, bytes, valid);
}
inline void cp_async_commit() { emulator::runtime->commit_copies(); }
template <int pending>
void cp_async_wait() {
  emulator::runtime->wait_copies(pending);
}

}  // namespace fa::ptx
