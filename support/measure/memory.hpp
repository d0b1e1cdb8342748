// Memory of this process, as Linux counts it.
#pragma once

#include <cstdint>
#include <optional>

namespace fa::support {

/// Peak of resident memory beyond what is resident now.
class PeakMemory {
 public:
  /// Sets the process's peak back to what is resident now.
  PeakMemory();
  /// Growth since then, in bytes. Nothing where the kernel does not let a process reset its peak.
  std::optional<int64_t> growth() const;

 private:
  bool reset_ = false;
  int64_t resident_ = 0;
};

/// Bytes that the process can take without swapping and within its control group's limit.
int64_t available_memory();

}  // namespace fa::support
