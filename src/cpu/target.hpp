// Which instruction set the CPU kernels run on.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace fa::cpu {

/// Position of the chosen instruction set in Highway's dispatch tables.
size_t target_index();
/// Whether the kernels may use AVX-512's instructions for bfloat16, which are no target of
/// Highway's: names with "_bf16".
bool multiplies_bfloat16();
std::string target_name();
/// Those compiled in that this CPU has, best first.
std::vector<std::string> available_targets();

}  // namespace fa::cpu
