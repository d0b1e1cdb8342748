// Warps and warp groups: the choice of one thread of a warp, and the registers of a warp group.
#pragma once

namespace fa::ptx {

using u32 = unsigned;

/// True for one lane of the warp, always the same one (elect.sync, PTX ISA 9.7.13). All 32 lanes
/// call it.
__device__ inline bool elect() {
  u32 mine;
  asm volatile(
      "{\n.reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(mine));
  return mine != 0;
}

/// Registers of a thread from here on, a multiple of 8 from 24 to 256 (setmaxnreg, PTX ISA
/// 9.7.19.5). All warps of a warp group call it, once. The block was launched with a known maximum
/// (`__launch_bounds__`): a group that takes more waits until others have given as many up.
template <int count>
__device__ inline void give_registers() {
  static_assert(count % 8 == 0 && count >= 24 && count <= 256);
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count>
__device__ inline void take_registers() {
  static_assert(count % 8 == 0 && count >= 24 && count <= 256);
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

}  // namespace fa::ptx
