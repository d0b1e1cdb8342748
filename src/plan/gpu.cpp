#include "plan/gpu.hpp"

#include <algorithm>

namespace fa {

std::span<const GpuLimits> known_gpus() {
  static const GpuLimits gpus[] = {
      {"sm_80", 108, 163 << 10, 164 << 10},  {"sm_86", 84, 99 << 10, 100 << 10},
      {"sm_89", 142, 99 << 10, 100 << 10},   {"sm_90a", 132, 227 << 10, 228 << 10},
      {"sm_100", 148, 227 << 10, 228 << 10}, {"sm_120", 188, 99 << 10, 100 << 10},
  };
  return gpus;
}

const GpuLimits* known_gpu(const std::string& arch) {
  const auto gpus = known_gpus();
  const auto found = std::find_if(gpus.begin(), gpus.end(),
                                  [&](const GpuLimits& gpu) { return gpu.arch == arch; });
  return found == gpus.end() ? nullptr : &*found;
}

}  // namespace fa
