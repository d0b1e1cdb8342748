// The loops of a kernel's machine code that multiply by wgmma, and what they spill.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fa::test {

/// A loop with products, and with no smaller loop that has some.
struct ProductLoop {
  int instructions = 0;
  int products = 0;        ///< HGMMA
  int local_accesses = 0;  ///< LDL, STL: spilled registers, arrays
};

/// In the order of their first instructions. `listing`: what `nvdisasm -c` prints of one kernel.
/// Throws std::runtime_error for a branch whose aim is unknown.
std::vector<ProductLoop> product_loops(std::string_view listing);

/// What `nvdisasm -c` prints. Throws std::runtime_error where it cannot be run.
std::string disassembled(std::span<const char> cubin);

}  // namespace fa::test
