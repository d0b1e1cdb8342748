// What a kernel's source needs to be compiled for the host: CUDA's words, and the emulator that
// runs its threads (tests/emulator/run.cpp).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define __device__
#define __global__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

namespace emulator {

struct Index {
  unsigned x, y, z;
};

/// What a kernel asks of the emulator. `operation` is called once, by the last of a warp's lanes to
/// come, with what all of them brought.
struct Runtime {
  const Index& (*thread_index)();
  const Index& (*block_index)();
  const Index& (*grid_size)();
  void (*warp)(void (*operation)(void* const* lanes), void* mine);
  void (*barrier)(int name, int threads, bool wait);
  char* (*shared)();
  void (*copy_async)(unsigned to, const void* from, int bytes, bool valid);
  void (*commit_copies)();
  void (*wait_copies)(int pending);
  bool (*any)(bool mine);  ///< of a block, as a barrier
  void (*spin)();          ///< another round of waiting for memory
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
using std::ceil;
using std::fabs;
