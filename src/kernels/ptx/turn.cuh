// Who comes when: counters in global memory by which blocks, or warps of theirs, follow each other.
// More may have had their turn than there are, where lengths in device memory lie: then nobody
// waits for ever.
#pragma once

namespace fa::ptx {

/// How many have had their turn. What they did to global memory is seen after a fence.
__device__ inline int look_at_turn(const int* counter) {
  int now;
  asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
  return now;
}

/// What was done to global memory before it comes before what is done after it, for the whole GPU.
__device__ inline void fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

/// Waits until so many have had their turn, and sees what they did to global memory. `seen`: as
/// many had when the last fence came.
__device__ inline void wait_for_turn(const int* counter, int turn, int seen = -1) {
  while (seen < turn) {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  }
}

/// One more has had it, and what the calling thread did to global memory before a fence is seen.
__device__ inline void pass_turn(int* counter) {
  asm volatile("red.relaxed.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory");
}

}  // namespace fa::ptx
