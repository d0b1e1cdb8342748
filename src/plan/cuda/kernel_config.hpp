// The Config that device code is compiled with (src/kernels/common/config.h), and the program that
// instantiates a kernel with it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "plan/cuda/kernel_spec.hpp"
#include "problem/problem.hpp"

namespace fa {

class KernelConfig {
 public:
  KernelConfig& number(std::string_view name, int64_t value);
  /// Written where it is not as the defaults have it.
  KernelConfig& flag(std::string_view name, bool value, bool by_default = false);
  /// A number format, written where the tensor is given.
  KernelConfig& format(std::string_view name, bool given, DType dtype);

  const std::string& members() const { return members_; }
  const std::string& constants() const { return constants_; }

 private:
  void add(std::string_view type, std::string_view name, std::string_view value,
           std::string_view shown);

  std::string members_, constants_;
};

/// Which device code, with which defaults.
struct KernelSource {
  std::string_view entry;
  std::vector<std::string_view> includes;  ///< files of src/kernels
  std::string_view defaults;               ///< the type that Config derives from
  std::string_view kernel;                 ///< the type that runs it, of Config
  int cluster = 1;                         ///< blocks that see each other's shared memory
};

KernelSpec kernel_spec(const KernelSource& source, const KernelConfig& config, int threads,
                       int min_blocks = 0, int shared_bytes = 0);

}  // namespace fa
