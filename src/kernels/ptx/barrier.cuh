// Named barriers of a block (PTX ISA 9.7.13): a thread waits at one, or only says that it was
// there. Threads that waited see what each thread did to shared memory before it came.
#pragma once

namespace fa::ptx {

template <int threads>
__device__ inline void barrier_sync(int name) {
  asm volatile("bar.sync %0, %1;" ::"r"(name), "n"(threads) : "memory");
}

template <int threads>
__device__ inline void barrier_arrive(int name) {
  asm volatile("bar.arrive %0, %1;" ::"r"(name), "n"(threads) : "memory");
}

}  // namespace fa::ptx
