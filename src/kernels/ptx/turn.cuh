// Blocks that follow each other in an order of theirs, by a counter in global memory.
#pragma once

namespace fa::ptx {

/// By all threads of a block: waits until so many have had their turn. What they did to global
/// memory is seen. More may have, where lengths in device memory lie: then nobody waits for ever.
__device__ inline void wait_for_turn(const int* counter, int turn) {
  if (threadIdx.x == 0) {
    int now;
    do {
      asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
    } while (now < turn);
  }
  __syncthreads();
}

/// By all threads of a block: it is the next one's turn.
__device__ inline void pass_turn(int* counter) {
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory");
  }
}

}  // namespace fa::ptx
