// A loop whose turns take seconds, over some threads.
#pragma once

#include <cstdint>
#include <functional>

namespace fa::cuda {

/// body(i) for i of 0 .. count - 1, in any order. threads: 0 is one for each core. The first
/// exception ends the loop, when the running turns are done, and is thrown here.
void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& body);

}  // namespace fa::cuda
