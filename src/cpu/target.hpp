// Which instruction set the CPU kernels run on.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace fa::cpu {

/// Position of the chosen instruction set in Highway's dispatch tables.
size_t target_index();
/// Whether the kernels are to multiply bfloat16 as it is, by instructions that are no target of
/// Highway's: AVX-512's for pairs in vectors, names with "_bf16";
bool multiplies_pairs();
/// or AMX's tiles, names with "_amx".
bool multiplies_tiles();
std::string target_name();
/// Those compiled in that this CPU has, best first.
std::vector<std::string> available_targets();

}  // namespace fa::cpu
