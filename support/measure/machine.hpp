// The machine: its CPU, its last cache, its threads.
#pragma once

#include <cstdint>
#include <string>

namespace fa::support {

std::string cpu_model();     ///< "AMD EPYC 7763 64-Core Processor"; "unknown CPU" if not told
int64_t last_level_cache();  ///< bytes of the largest cache; 32 MiB if not told
int default_threads();       ///< the number that the library takes

}  // namespace fa::support
