#include "toy/source.hpp"

#include <deque>
#include <fstream>
#include <sstream>
#include <vector>

#include "toy/params.h"

namespace fa::toy {

std::span<const cuda::Source> sources() {
  static std::deque<std::string> texts;
  static const std::vector<cuda::Source> all = [] {
    std::vector<cuda::Source> known(cuda::sources().begin(), cuda::sources().end());
    for (const char* name : {"toy/params.h", "toy/ring.cuh", "toy/ring_kernel.cuh",
                             "toy/exchange_kernel.cuh", "toy/shapes_kernel.cuh"}) {
      std::ostringstream text;
      text << std::ifstream(std::string(FA_TOY_FOLDER "/") + name).rdbuf();
      known.push_back({name, texts.emplace_back(text.str())});
    }
    return known;
  }();
  return all;
}

KernelSpec ring_spec() {
  return {.entry = "fa_toy_ring",
          .program = "#include \"toy/ring_kernel.cuh\"\n",
          .constants = {},
          .threads = threads,
          .shared_bytes = shared_bytes};
}
KernelSpec exchange_spec() {
  return {.entry = "fa_toy_exchange",
          .program = "#include \"toy/exchange_kernel.cuh\"\n",
          .constants = {},
          .threads = exchange_threads,
          .shared_bytes = exchange_shared_bytes};
}
KernelSpec shapes_spec(bool a_in_registers) {
  const std::string value = a_in_registers ? "true" : "false";
  return {.entry = "fa_toy_shape_1",
          .program = "namespace fa::config { constexpr bool a_in_registers = " + value +
                     "; }\n#include \"toy/shapes_kernel.cuh\"\n",
          .constants = {},
          .threads = 128};
}

}  // namespace fa::toy
