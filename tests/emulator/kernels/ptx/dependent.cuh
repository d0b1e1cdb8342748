// Counterpart of src/kernels/ptx/dependent.cuh: launches run one after the other.
#pragma once

namespace fa::ptx {

inline void let_dependents_begin() {}
inline void wait_for_launch_before() {}

}  // namespace fa::ptx
