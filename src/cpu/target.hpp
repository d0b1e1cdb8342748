// Which instruction set the CPU kernels run on.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "plan/cpu/plan.hpp"

namespace fa::cpu {

/// Position of the chosen instruction set in Highway's dispatch tables.
size_t target_index();
/// How this CPU is to multiply bfloat16. Pairs (AVX-512's vdpbf16ps) and tiles (AMX) are no targets
/// of Highway's: the names of ours have "_bf16" and "_amx".
Arithmetic bfloat16_arithmetic();
std::string target_name();
/// The names of all targets that are compiled in and that this CPU has, best first.
std::vector<std::string> available_targets();

}  // namespace fa::cpu
