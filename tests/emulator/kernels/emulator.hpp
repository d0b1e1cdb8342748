// What a kernel's source needs to be compiled for the host: CUDA's words, and the emulator that
// runs its threads (docs/emulator.md).
#pragma once

#include <cstdint>
#include <cstring>

// Without <cmath>, which would take a third of the time that a kernel takes to compile.
extern "C" {
float ceilf(float) noexcept;
float copysignf(float, float) noexcept;
float exp2f(float) noexcept;
float fabsf(float) noexcept;
float fmaf(float, float, float) noexcept;
float fmaxf(float, float) noexcept;
float fminf(float, float) noexcept;
float log2f(float) noexcept;
float tanhf(float) noexcept;
}

#define __device__
#define __forceinline__ inline
#define __global__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};

namespace emulator {

struct Index {
  unsigned x, y, z;
};

/// Addresses in shared memory are numbers of bytes. A block's own begin at `shared_base`, so that 0
/// is none of them; those of block r of a cluster are the same numbers plus (r + 1) << rank_shift.
inline constexpr unsigned shared_base = 1024;
inline constexpr unsigned rank_shift = 24;

/// A copy of bytes in one piece, or of a box of a tensor.
struct BulkCopy {
  enum class Way { load, store, add, to_block };
  Way way;
  unsigned shared = 0;     ///< of the block that calls; where a load goes to
  void* global = nullptr;  ///< none for boxes, nor between blocks
  unsigned remote = 0;     ///< of to_block
  int bytes = 0;           ///< of a box the map knows
  unsigned barrier = 0;    ///< of load and to_block
  const void* map = nullptr;
  const int* at = nullptr;  ///< the box's first element
  int rank = 0;
};

/// One lane's part of wgmma.
struct WarpGroupProduct {
  float* d;  ///< [tiles][4]
  int tiles;
  const unsigned* a_registers;  ///< [4], or null: A lies in shared memory
  unsigned long long a, b;      ///< descriptors
  bool a_mn, b_mn, add;
  float (*number)(unsigned short);
};

/// What a kernel asks of the emulator. `warp` calls `operation` once, by the last of a warp's lanes
/// to come, with what all of them brought.
struct Runtime {
  const Index& (*thread_index)();
  const Index& (*block_index)();
  const Index& (*grid_size)();
  char* (*shared)();
  void (*spin)();  ///< another round of waiting for memory

  void (*warp)(void (*operation)(void* const* lanes), void* mine);
  void (*barrier)(int name, int threads, bool wait);
  bool (*any)(bool mine);  ///< of a block, as a barrier

  void (*copy_async)(unsigned to, const void* from, int bytes, bool valid);
  void (*commit_copies)();
  void (*wait_copies)(int pending);

  void (*wrote)(unsigned address, int bytes);  ///< the thread did, with a store of its own
  void (*fence_proxy)();

  void (*mbarrier_init)(unsigned barrier, int arrivals);
  void (*fence_mbarriers)();
  void (*mbarrier_arrive)(unsigned barrier, int expected_bytes);  ///< of any block of the cluster
  void (*mbarrier_wait)(unsigned barrier, unsigned parity);

  void (*bulk_copy)(const BulkCopy& copy);
  void (*store_async)(unsigned remote, uint4 value, unsigned remote_barrier);
  void (*bulk_commit)();
  void (*bulk_wait)(int pending, bool only_read);

  void (*wgmma)(const WarpGroupProduct& product);
  void (*wgmma_fence)();
  void (*wgmma_commit)();
  void (*wgmma_wait)(int pending);

  unsigned (*cluster_rank)();
  void (*cluster_arrive)();
  void (*cluster_wait)();
  const char* (*remote)(unsigned address, int bytes);  ///< to be read at once
};
inline const Runtime* runtime;

/// Operands of an instruction of a whole warp, of one lane: f(lanes) does it.
template <typename Mine, void (*f)(Mine* const*)>
void warp(Mine& mine) {
  runtime->warp(
      [](void* const* lanes) {
        Mine* all[32];
        for (int i = 0; i < 32; ++i) all[i] = static_cast<Mine*>(lanes[i]);
        f(all);
      },
      &mine);
}

template <typename T>
struct Exchange {
  T value, result;
  int from;  ///< lane
};
template <typename T>
void exchange(Exchange<T>* const* lanes) {
  for (int i = 0; i < 32; ++i) lanes[i]->result = lanes[lanes[i]->from]->value;
}
struct Vote {
  bool value;
  unsigned result;
};
inline void vote(Vote* const* lanes) {
  unsigned all = 0;
  for (int i = 0; i < 32; ++i) all |= static_cast<unsigned>(lanes[i]->value) << i;
  for (int i = 0; i < 32; ++i) lanes[i]->result = all;
}
inline int lane() { return static_cast<int>(runtime->thread_index().x % 32); }

}  // namespace emulator

#define threadIdx (emulator::runtime->thread_index())
#define blockIdx (emulator::runtime->block_index())
#define gridDim (emulator::runtime->grid_size())

template <typename T>
T shuffle(T value, int from) {
  emulator::Exchange<T> mine{value, {}, from};
  emulator::warp<emulator::Exchange<T>, emulator::exchange<T>>(mine);
  return mine.result;
}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return shuffle(value, lane & 31);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return shuffle(value, emulator::lane() ^ mask);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int by) {
  const int lane = emulator::lane();
  return shuffle(value, lane >= by ? lane - by : lane);
}
inline unsigned __ballot_sync(unsigned, bool value) {
  emulator::Vote mine{value, 0};
  emulator::warp<emulator::Vote, emulator::vote>(mine);
  return mine.result;
}
inline bool __any_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) != 0; }
inline void __syncwarp() { __ballot_sync(~0u, true); }
inline void __syncthreads() { emulator::runtime->barrier(0, 0, true); }
inline int __syncthreads_or(bool value) { return emulator::runtime->any(value); }
inline void __threadfence() {}
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline int min(int a, int b) { return a < b ? a : b; }
