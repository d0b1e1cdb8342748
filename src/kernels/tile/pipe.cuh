// A ring of stages in shared memory between warps that fill them and warps that use them: the
// copies of a warp for groups that compute, or a group's results for a warp that copies. Each stage
// has two mbarriers: one is passed when the stage is full, one when all warps have released it.
// Both sides go through the stages in the same order, each with a Pipe of its own.
#pragma once

#include "ptx/mbarrier.cuh"

namespace fa::tile {

using u32 = unsigned;

template <int stages_, int stage_bytes>
struct Pipe {
  static constexpr int stages = stages_;
  static constexpr int bytes = stages * stage_bytes;
  static constexpr int barrier_bytes = 16 * stages;

  u32 memory;    ///< the stages
  u32 barriers;  ///< of each stage: full, empty
  u32 offset = 0;
  u32 barrier = 0;
  u32 parity = 0;

  __device__ Pipe(u32 memory_, u32 barriers_) : memory(memory_), barriers(barriers_) {}

  /// One thread, once. `users`: the warps that release each stage. `fillers`: arrivals that fill
  /// it.
  __device__ void init(int users, int fillers = 1) const {
    for (int i = 0; i < stages; ++i) {
      ptx::mbarrier_init(barriers + 16 * i, fillers);
      ptx::mbarrier_init(barriers + 16 * i + 8, users);
    }
  }

  __device__ u32 stage() const { return memory + offset; }
  __device__ u32 full() const { return barriers + barrier; }
  __device__ u32 empty() const { return full() + 8; }
  __device__ void wait_until_full() const { ptx::mbarrier_wait(full(), parity); }
  __device__ void wait_until_empty() const { ptx::mbarrier_wait(empty(), parity ^ 1); }

  /// The warp is done with the stage: after a `__syncwarp`, where its lanes read it by themselves.
  __device__ void release(int lane) {
    if (lane == 0) ptx::mbarrier_arrive(empty());
    next();
  }
  __device__ void next() {
    offset += stage_bytes;
    barrier += 16;
    if (offset == bytes) {
      offset = barrier = 0;
      parity ^= 1;
    }
  }
};

}  // namespace fa::tile
