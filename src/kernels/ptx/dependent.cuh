// Launches that depend on the one before (griddepcontrol, PTX ISA 9.7.13): the blocks of a
// dependent launch begin early, and wait where they need what the other one has written.
#pragma once

namespace fa::ptx {

/// A dependent launch may begin once all blocks have called this, or ended.
__device__ inline void let_dependents_begin() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

/// Waits until the launch before has ended, all of whose stores are then seen.
__device__ inline void wait_for_launch_before() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

}  // namespace fa::ptx
