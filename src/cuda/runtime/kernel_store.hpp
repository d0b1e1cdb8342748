// Kernels ready to be launched: from this process's memory, a bundle, the disk cache or NVRTC.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cuda/runtime/bundle.hpp"
#include "cuda/runtime/digest.hpp"
#include "cuda/runtime/disk_cache.hpp"
#include "cuda/runtime/driver_api.hpp"
#include "cuda/runtime/once_per.hpp"
#include "cuda/runtime/sources.hpp"
#include "plan/cuda/kernel_spec.hpp"

namespace fa::cuda {

struct LoadedKernel {
  CUfunction function = nullptr;  ///< for launches in any context of the device
  int registers = 0;              ///< of a thread
  int local_bytes = 0;            ///< of a thread: spilled registers, arrays
};

struct StoreCounters {
  int64_t compiled = 0;
  int64_t from_disk = 0;
  int64_t from_bundle = 0;
  double compile_seconds = 0;  ///< summed over threads
};

/// May be used by many threads at once.
class KernelStore {
 public:
  using Code = std::vector<char>;

  /// headers_digest: for the kernels' keys.
  KernelStore(std::span<const Source> headers, const Digest& headers_digest, DiskCache cache,
              std::vector<Bundle> bundles);

  /// Machine code for "sm_90a" or its like; needs no device. Throws Error.
  std::shared_ptr<const Code> cubin(const KernelSpec& spec, const std::string& arch);
  /// Loaded on the device, its dynamic shared memory allowed; good for the store's life. Throws
  /// Error.
  const LoadedKernel& load(const KernelSpec& spec, int device);

  /// The name of a kernel's machine code in a bundle.
  Digest key(const KernelSpec& spec, const std::string& arch) const;
  const Digest& headers_digest() const { return headers_digest_; }
  const DiskCache& cache() const { return cache_; }
  const std::vector<Bundle>& bundles() const { return bundles_; }
  StoreCounters counters() const;

 private:
  Code make_cubin(const KernelSpec& spec, const std::string& arch, const Digest& key);

  std::span<const Source> headers_;
  Digest headers_digest_;
  DiskCache cache_;
  std::vector<Bundle> bundles_;
  OncePer<Code> codes_;  // only while they are made: what is loaded need not be kept
  OncePer<LoadedKernel> kernels_;
  std::atomic<int64_t> compiled_{0}, from_disk_{0}, from_bundle_{0}, compile_microseconds_{0};
};

/// The process's store: the library's own sources, and what the environment names. Throws Error
/// when a bundle of FA_BUNDLE cannot be read.
KernelStore& kernel_store();

inline const LoadedKernel& load(const KernelSpec& spec, int device) {
  return kernel_store().load(spec, device);
}

/// Loads many ahead of their use, several at a time. threads: 0 is one for each core.
void prepare(std::span<const KernelSpec> specs, int device, int threads = 0);

}  // namespace fa::cuda
