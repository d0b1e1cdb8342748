#include "support/measure/memory.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace fa::support {
namespace {

/// The number after `key` in a file of lines "Key:   123 kB", in bytes; -1 when it is not there.
int64_t read_kilobytes(const char* file, const std::string& key) {
  std::ifstream stream(file);
  for (std::string word; stream >> word;) {
    int64_t kilobytes = 0;
    if (word == key && stream >> kilobytes) return kilobytes * 1024;
    stream.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return -1;
}

int64_t peak() { return read_kilobytes("/proc/self/status", "VmHWM:"); }

}  // namespace

PeakMemory::PeakMemory() {
  std::ofstream stream("/proc/self/clear_refs");
  stream << "5" << std::flush;  // proc(5): resets the peak resident set size
  reset_ = stream.good();
  resident_ = read_kilobytes("/proc/self/status", "VmRSS:");
}

std::optional<int64_t> PeakMemory::growth() const {
  if (!reset_ || resident_ < 0) return std::nullopt;
  return peak() - resident_;
}

int64_t available_memory() {
  int64_t available = read_kilobytes("/proc/meminfo", "MemAvailable:");
  // In a container the group's limit may be far less than the machine has; "max" is no number.
  std::ifstream limit_file("/sys/fs/cgroup/memory.max");
  std::ifstream used_file("/sys/fs/cgroup/memory.current");
  int64_t limit = 0;
  int64_t used = 0;
  if (limit_file >> limit && used_file >> used) available = std::min(available, limit - used);
  return available;
}

}  // namespace fa::support
