// Counters in global memory: some put blocks in an order, one hands out numbers. A block that waits
// for its turn waits until the counter reaches its number, then increments it. If lengths on the
// device are wrong, the counter may pass the expected number; no block then waits forever.
//
// A block waits only for tiles of lower numbers. Where each block has one, a GPU starts none of
// lower numbers later; where blocks claim them, those are in the hands of blocks that run.
#pragma once

namespace fa::ptx {

/// How many blocks have had their turn. Additions to global memory behind a branch on it come after
/// those blocks' additions, though PTX's memory model does not promise it without an acquire: a GPU
/// issues none ahead of the branch, and adds where the counter lies, in L2. Loads may come from L1,
/// and be older.
__device__ inline int look_at_turn(const int* counter) {
  int now;
  asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
  return now;
}

/// Waits until `turn` blocks have had their turn. `seen`: what look_at_turn found.
__device__ inline void wait_for_turn(const int* counter, int turn, int seen = -1) {
  while (seen < turn) {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  }
}

/// Ends a turn. One thread calls it, behind a barrier of those whose turn it was, or when its own
/// copies are done: it waits until all that they did to global memory is done, and increments the
/// counter. A release, for fence.acq_rel would empty the L1.
__device__ inline void pass_turn(int* counter) {
  asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory");
}

/// Whether the calling thread is the first that takes a turn at a counter, which then is 1.
__device__ inline bool take_first_turn(int* counter) {
  int before;
  asm volatile("atom.relaxed.gpu.global.cas.b32 %0, [%1], 0, 1;"
               : "=r"(before)
               : "l"(counter)
               : "memory");
  return before == 0;
}

// What only one thread of a warp does is told by a predicate, not by a branch: behind a branch the
// compiler would take nothing for the same in all lanes, and the warp's uniform registers would go
// unused.

/// Publishes what the thread that `does` wrote before, by a number that the memory does not hold
/// yet; 0 takes the number away again.
__device__ inline void publish(unsigned long long* to, unsigned long long number, bool does) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "setp.ne.s32 p, %2, 0;\n"
      "@p st.release.gpu.global.u64 [%0], %1;\n}" ::"l"(to),
      "l"(number), "r"(static_cast<int>(does))
      : "memory");
}

/// Waits until the number is published, and sees what was written before it.
__device__ inline void wait_until_published(const unsigned long long* by,
                                            unsigned long long number) {
  unsigned long long seen;
  do {
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(by) : "memory");
  } while (seen != number);
}

/// Takes the next number of a counter in global memory, 0, 1, 2 ..., for the thread of a warp that
/// `takes` it; 0 for the others.
__device__ inline int take_number(int* counter, bool takes) {
  int number;
  asm volatile(
      "{\n.reg .pred p;\n"
      "setp.ne.s32 p, %2, 0;\n"
      "mov.s32 %0, 0;\n"
      "@p atom.relaxed.gpu.global.add.s32 %0, [%1], 1;\n}"
      : "=&r"(number)
      : "l"(counter), "r"(static_cast<int>(takes))
      : "memory");
  return number;
}

}  // namespace fa::ptx
