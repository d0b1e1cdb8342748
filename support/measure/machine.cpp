#include "support/measure/machine.hpp"

#include <algorithm>
#include <fstream>
#include <string>

#include "cpu/threads.hpp"

namespace fa::support {

std::string cpu_model() {
  std::ifstream stream("/proc/cpuinfo");
  for (std::string line; std::getline(stream, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != line.npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

int64_t last_level_cache() {
  int64_t largest = 0;
  for (int index = 0; index < 8; ++index) {
    std::ifstream stream("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) +
                         "/size");
    int64_t size = 0;
    char unit = 0;
    if (!(stream >> size)) continue;
    if (stream >> unit) size *= unit == 'M' ? 1 << 20 : 1 << 10;
    largest = std::max(largest, size);
  }
  return largest > 0 ? largest : int64_t{32} << 20;
}

int default_threads() { return cpu::default_threads(); }

}  // namespace fa::support
