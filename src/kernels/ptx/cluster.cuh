// Clusters of blocks (`__cluster_dims__`), which see each other's shared memory. A block must not
// end while another may still touch its shared memory: a cluster's barrier comes last.
#pragma once

namespace fa::ptx {

using u32 = unsigned;

/// The block's number in its cluster.
__device__ inline u32 cluster_rank() {
  u32 rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// The cluster's barrier (barrier.cluster, PTX ISA 9.7.13.4), in two halves: all threads of all its
/// blocks arrive, and each waits before it arrives anew. A thread that waited sees what all did
/// before they arrived. All 32 lanes of a warp call each half.
__device__ inline void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/// This block's address in shared memory as that of the same place of block `rank` (mapa).
__device__ inline u32 of_block(u32 shared, u32 rank) {
  u32 remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared), "r"(rank));
  return remote;
}

/// Arrives at an mbarrier of another block: what this warp read of shared memory may be
/// overwritten. It publishes nothing that the thread wrote: a release in the whole cluster would
/// wait until the thread's additions to global memory are done.
__device__ inline void mbarrier_arrive_remote(u32 remote_barrier) {
  asm volatile("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%0];" ::"r"(remote_barrier)
               : "memory");
}

/// `mbarrier_wait` at a barrier of this block after which threads load what threads of another
/// block have stored here (`store_async`). It empties the L1 cache: for copies, which products
/// read, and for `mbarrier_arrive_remote` an `mbarrier_wait` is enough.
__device__ inline void mbarrier_wait_cluster(u32 barrier, u32 parity) {
  u32 ended;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(ended)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (ended == 0);
}

/// A number of another block's shared memory; `remote` is a multiple of 4 bytes.
__device__ inline float load_remote(u32 remote) {
  float x;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(remote) : "memory");
  return x;
}

/// Stores 16 bytes in another block's shared memory, some time later (st.async, PTX ISA 9.7.9).
/// `remote`, a multiple of 16, and `remote_barrier` belong to the same block, whose mbarrier gets
/// 16 bytes.
__device__ inline void store_async(u32 remote, uint4 value, u32 remote_barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1,%2,%3,%4}, [%5];" ::
          "r"(remote),
      "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(remote_barrier)
      : "memory");
}

}  // namespace fa::ptx
