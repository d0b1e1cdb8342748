#pragma once
#include "emulator.hpp"

namespace fa::ptx {

using u32 = unsigned;

inline u32 cluster_rank() { return emulator::runtime->cluster_rank(); }
inline void cluster_arrive() {
  __syncwarp();
  emulator::runtime->cluster_arrive();
}
inline void cluster_wait() {
  __syncwarp();
  emulator::runtime->cluster_wait();
}
inline u32 of_block(u32 shared, u32 rank) { return shared + ((rank + 1) << emulator::rank_shift); }
inline void mbarrier_arrive_remote(u32 remote_barrier) {
  emulator::runtime->mbarrier_arrive(remote_barrier, 0);
}
inline void mbarrier_wait_cluster(u32 barrier, u32 parity) {
  emulator::runtime->mbarrier_wait(barrier, parity);
}
inline float load_remote(u32 remote) {
  return *reinterpret_cast<const float*>(emulator::runtime->remote(remote, sizeof(float)));
}
inline void store_async(u32 remote, uint4 value, u32 remote_barrier) {
  emulator::runtime->store_async(remote, value, remote_barrier);
}

}  // namespace fa::ptx
