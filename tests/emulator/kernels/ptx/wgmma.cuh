#pragma once
#include "common/descriptor.h"
#include "common/number.h"
#include "emulator.hpp"
#include "ptx/math.cuh"

namespace fa::ptx {

using u32 = unsigned;
using u64 = unsigned long long;

template <int... tiles>
void wgmma_fence([[maybe_unused]] float (&... d)[tiles][4]) {
  emulator::runtime->wgmma_fence();
}
inline void wgmma_commit() { emulator::runtime->wgmma_commit(); }
template <int pending, int... tiles>
void wgmma_wait([[maybe_unused]] float (&... d)[tiles][4]) {
  emulator::runtime->wgmma_wait(pending);
}

template <kernel::Number number>
constexpr auto to_float = number == kernel::Number::bfloat16 ? bf16_to_f32 : f16_to_f32;

template <kernel::Number number, kernel::Major a_major, kernel::Major b_major, int tiles>
void wgmma(float (&d)[tiles][4], u64 a, u64 b, bool add) {
  emulator::runtime->wgmma({.d = &d[0][0],
                            .tiles = tiles,
                            .a_registers = nullptr,
                            .a = a,
                            .b = b,
                            .a_mn = a_major == kernel::Major::mn,
                            .b_mn = b_major == kernel::Major::mn,
                            .add = add,
                            .number = to_float<number>});
}
template <kernel::Number number, kernel::Major b_major, int tiles>
void wgmma(float (&d)[tiles][4], const u32 (&a)[4], u64 b, bool add) {
  emulator::runtime->wgmma({.d = &d[0][0],
                            .tiles = tiles,
                            .a_registers = a,
                            .a = 0,
                            .b = b,
                            .a_mn = false,
                            .b_mn = b_major == kernel::Major::mn,
                            .add = add,
                            .number = to_float<number>});
}

}  // namespace fa::ptx
