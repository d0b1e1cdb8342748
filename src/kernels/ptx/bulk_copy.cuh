// Bulk copies of bytes in one piece (cp.async.bulk, PTX ISA 9.7.9.25.4). One thread begins a copy.
// All addresses are aligned to 16 bytes, and all sizes are multiples of 16 bytes. Copies into
// shared memory end at an mbarrier; those out of it belong to groups of the thread that began them.
#pragma once

namespace fa::ptx {

using u32 = unsigned;

/// Global to shared memory. `barrier`, an mbarrier of the same block, gets `bytes`.
__device__ inline void bulk_load(u32 shared, const void* global, int bytes, u32 barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared),
      "l"(global), "r"(bytes), "r"(barrier)
      : "memory");
}

/// Shared to global memory.
__device__ inline void bulk_store(void* global, u32 shared, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
               "r"(shared), "r"(bytes)
               : "memory");
}

/// Adds float32 numbers of shared memory to those of global memory, each by itself, in any order.
__device__ inline void bulk_add(float* global, u32 shared, int bytes) {
  asm volatile(
      "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(global),
      "r"(shared), "r"(bytes)
      : "memory");
}

/// Shared memory of this block to that of a block of its cluster. `remote` and `remote_barrier` are
/// addresses of that block (`of_block`), whose mbarrier gets `bytes`.
__device__ inline void bulk_to_block(u32 remote, u32 shared, int bytes, u32 remote_barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(remote),
      "r"(shared), "r"(bytes), "r"(remote_barrier)
      : "memory");
}

/// Closes this thread's group of copies out of shared memory, tensor copies among them.
__device__ inline void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

/// Waits until at most `pending` of this thread's groups have still to be written.
template <int pending>
__device__ inline void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(pending) : "memory");
}

/// Waits until at most `pending` of this thread's groups have still to read their shared memory,
/// which may then be written anew. A block ends after it, not before.
template <int pending>
__device__ inline void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}

}  // namespace fa::ptx
