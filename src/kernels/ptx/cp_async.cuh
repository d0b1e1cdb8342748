// cp.async: copies from global to shared memory that a thread does not wait for.
#pragma once

namespace fa::ptx {

using u32 = unsigned;

/// Copies `bytes` (16, 8 or 4), or writes as many zeros and reads nothing where not `valid`. 16
/// bytes go past L1 (.cg); the smaller ones exist as .ca only.
template <int bytes>
__device__ inline void cp_async(u32 shared, const void* global, bool valid) {
  const int read = valid ? bytes : 0;
  if constexpr (bytes == 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared),
                 "l"(global), "r"(read)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(global),
                 "n"(bytes), "r"(read)
                 : "memory");
  }
}

/// Closes this thread's group of copies.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most `pending` of this thread's groups are under way.
template <int pending>
__device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace fa::ptx
