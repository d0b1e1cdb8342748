// Bundles made ahead of their use: the kernels of a preset, compiled for some architectures.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cuda/runtime/cubin.hpp"
#include "cuda/runtime/kernel_store.hpp"
#include "plan/cuda/kernel_spec.hpp"

namespace fa::cuda {

struct Target {
  KernelSpec spec;
  std::string arch;
};

/// Every kernel of the preset for every architecture. Throws Error naming what is allowed.
std::vector<Target> preset_targets(const std::string& preset,
                                   const std::vector<std::string>& archs);

struct Precompiled {
  int64_t bytes = 0;           ///< the bundle's size
  std::vector<CubinUse> uses;  ///< of the targets
};

/// Compiles them and writes the bundle, or nothing. threads: 0 is one for each core.
/// progress(done): called by one thread at a time. Throws Error.
Precompiled precompile(KernelStore& store, const std::string& path,
                       const std::vector<Target>& targets, int threads,
                       const std::function<void(int64_t)>& progress);

}  // namespace fa::cuda
