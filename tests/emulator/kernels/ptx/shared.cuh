#pragma once
#include "emulator.hpp"

namespace fa::ptx {

using u32 = unsigned;

inline char* shared_memory() { return emulator::runtime->shared(); }
inline u32 shared_address(const void* p) {
  return emulator::shared_base +
         static_cast<u32>(static_cast<const char*>(p) - emulator::runtime->shared());
}
template <typename T>
T& at_shared(u32 address) {
  return *reinterpret_cast<T*>(emulator::runtime->shared() + (address - emulator::shared_base));
}

struct Matrices {
  u32* r;
  u32 address;
};
template <bool transposed>
void load_matrices(Matrices* const* lanes) {
  for (int i = 0; i < 4; ++i) {
    for (int lane = 0; lane < 32; ++lane) {
      u32 pair = 0;
      for (int e = 0; e < 2; ++e) {
        const int row = transposed ? lane % 4 * 2 + e : lane / 4;
        const int column = transposed ? lane / 4 : lane % 4 * 2 + e;
        pair |= static_cast<u32>(at_shared<unsigned short>(lanes[8 * i + row]->address +
                                                           2 * static_cast<u32>(column)))
                << (16 * e);
      }
      lanes[lane]->r[i] = pair;
    }
  }
}
inline void ldmatrix(u32 (&r)[4], u32 address) {
  Matrices mine{r, address};
  emulator::warp<Matrices, load_matrices<false>>(mine);
}
inline void ldmatrix_trans(u32 (&r)[4], u32 address) {
  Matrices mine{r, address};
  emulator::warp<Matrices, load_matrices<true>>(mine);
}

template <typename T>
void store_as(u32 address, T value) {
  at_shared<T>(address) = value;
  emulator::runtime->wrote(address, sizeof(T));
}
inline void store_shared(u32 address, u32 value) { store_as(address, value); }
inline void store_shared(u32 address, uint4 value) { store_as(address, value); }

/// What a lane gives, and the row that it stores.
struct MatrixRow {
  const u32* r;
  u32 words[4];
};
inline void transfer_rows(MatrixRow* const* lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int t = 0; t < 4; ++t) lanes[lane]->words[t] = lanes[lane % 8 * 4 + t]->r[lane / 8];
  }
}
inline void stmatrix(u32 address, const u32 (&r)[4]) {
  MatrixRow mine{r, {}};
  emulator::warp<MatrixRow, transfer_rows>(mine);
  store_shared(address, uint4{mine.words[0], mine.words[1], mine.words[2], mine.words[3]});
}

inline uint4 load_shared(u32 address) { return at_shared<uint4>(address); }
inline float load_float(u32 address) { return at_shared<float>(address); }
inline float2 load_floats(u32 address) { return at_shared<float2>(address); }

}  // namespace fa::ptx
