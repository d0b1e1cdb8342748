// Barriers in shared memory that count arrivals and bytes (mbarrier, PTX ISA 9.7.13.15). A barrier
// has 8 bytes, aligned to 8, and goes through phases: a phase ends when as many threads have
// arrived as `mbarrier_init` said, and as many bytes have come as they expected. Any thread calls
// these.
#pragma once

namespace fa::ptx {

using u32 = unsigned;

/// One thread, once: each phase waits for `arrivals` (1 to 2^20 - 1). Phase 0 begins.
__device__ inline void mbarrier_init(u32 barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/// After the thread's calls of `mbarrier_init`, before the block's (or the cluster's) barrier:
/// copies and other blocks of the cluster see what they wrote.
__device__ inline void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Arrives once. Threads that wait for the phase see what this thread did before.
__device__ inline void mbarrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/// Arrives once, and has the phase wait for `bytes` more (less than 2^20), which copies bring that
/// are begun after it.
__device__ inline void mbarrier_arrive_expect(u32 barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

/// Waits for the end of the phase of this parity: 0 for phase 0, 1 for phase 1, 0 for phase 2 ... A
/// new barrier counts as one whose phase of parity 1 has ended.
__device__ inline void mbarrier_wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@!p bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

}  // namespace fa::ptx
