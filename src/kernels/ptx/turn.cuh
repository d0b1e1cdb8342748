// Who comes when: counters in global memory by which blocks follow each other. More may have had
// their turn than there are, where lengths in device memory lie: then nobody waits for ever.
#pragma once

namespace fa::ptx {

/// How many have had their turn. Additions to global memory behind a branch on it come after
/// theirs, though PTX's memory model does not promise it without an acquire: a GPU issues none
/// ahead of the branch, and adds where the counter lies, in L2. Loads may come from L1, and be
/// older.
__device__ inline int look_at_turn(const int* counter) {
  int now;
  asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
  return now;
}

/// Waits until so many have had their turn. `seen`: as many had when it was looked at.
__device__ inline void wait_for_turn(const int* counter, int turn, int seen = -1) {
  while (seen < turn) {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  }
}

/// One more has had it: after a barrier, one thread says so of all that its block did to global
/// memory before, and waits until that is done. A release, for fence.acq_rel would empty the L1.
__device__ inline void pass_turn(int* counter) {
  asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory");
}

}  // namespace fa::ptx
