#pragma once
#include "emulator.hpp"

namespace fa::ptx {

using u32 = unsigned;
using Way = emulator::BulkCopy::Way;

inline void bulk_load(u32 shared, const void* global, int bytes, u32 barrier) {
  emulator::runtime->bulk_copy({.way = Way::load,
                                .shared = shared,
                                .global = const_cast<void*>(global),
                                .bytes = bytes,
                                .barrier = barrier});
}
inline void bulk_store(void* global, u32 shared, int bytes) {
  emulator::runtime->bulk_copy(
      {.way = Way::store, .shared = shared, .global = global, .bytes = bytes});
}
inline void bulk_add(float* global, u32 shared, int bytes) {
  emulator::runtime->bulk_copy(
      {.way = Way::add, .shared = shared, .global = global, .bytes = bytes});
}
inline void bulk_to_block(u32 remote, u32 shared, int bytes, u32 remote_barrier) {
  emulator::runtime->bulk_copy({.way = Way::to_block,
                                .shared = shared,
                                .remote = remote,
                                .bytes = bytes,
                                .barrier = remote_barrier});
}
inline void bulk_commit() { emulator::runtime->bulk_commit(); }
template <int pending>
void bulk_wait() {
  emulator::runtime->bulk_wait(pending, false);
}
template <int pending>
void bulk_wait_read() {
  emulator::runtime->bulk_wait(pending, true);
}

}  // namespace fa::ptx
