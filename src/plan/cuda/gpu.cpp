#include "plan/cuda/gpu.hpp"

#include <algorithm>

namespace fa {

std::span<const GpuLimits> known_gpus() {
  static const GpuLimits gpus[] = {
      {"sm_80", 108, 163 << 10, 164 << 10, 2048, 32},
      {"sm_86", 84, 99 << 10, 100 << 10, 1536, 16},
      {"sm_89", 142, 99 << 10, 100 << 10, 1536, 24},
      {"sm_90a", 132, 227 << 10, 228 << 10, 2048, 32},
      {"sm_100", 148, 227 << 10, 228 << 10, 2048, 32},
      {"sm_120", 188, 99 << 10, 100 << 10, 1536, 24},
  };
  return gpus;
}

const GpuLimits* known_gpu(const std::string& arch) {
  const auto gpus = known_gpus();
  const auto found = std::find_if(gpus.begin(), gpus.end(),
                                  [&](const GpuLimits& gpu) { return gpu.arch == arch; });
  return found == gpus.end() ? nullptr : &*found;
}

bool holds(const GpuLimits& gpu, int blocks, int bytes) {
  return bytes <= gpu.shared_per_block && blocks * (bytes + 1024) <= gpu.shared_per_sm;
}

int resident_blocks(const GpuLimits& gpu, int threads, int registers, int shared_bytes) {
  const int warps = (threads + 31) / 32;
  const int of_warp = (32 * registers + register_unit - 1) / register_unit * register_unit;
  const int warps_per_sm = registers_per_sm / sm_quarters / std::max(of_warp, 1) * sm_quarters;
  return std::min({gpu.blocks_per_sm, gpu.threads_per_sm / (32 * warps), warps_per_sm / warps,
                   gpu.shared_per_sm / (shared_bytes + 1024)});
}

}  // namespace fa
