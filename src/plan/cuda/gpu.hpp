// What a plan needs to know of a GPU.
#pragma once

#include <optional>
#include <span>
#include <string>

namespace fa {

struct GpuLimits {
  std::string arch;  ///< "sm_80", "sm_90a" ...: what kernels are compiled for
  int sm_count = 0;
  int shared_per_block;  ///< bytes, the most that a kernel may ask for
  int shared_per_sm;     ///< bytes; a block takes 1 KB more than it asks for
  int threads_per_sm;
  int blocks_per_sm;
  friend bool operator==(const GpuLimits&, const GpuLimits&) = default;
};

/// Registers of a multiprocessor, and the most that a thread may have, on every one of these.
inline constexpr int registers_per_sm = 65536;
inline constexpr int registers_per_thread = 255;
/// A warp takes a multiple of this, which is 8 for each of its threads ...
inline constexpr int register_unit = 256;
/// ... from one quarter of the multiprocessor: warps are dealt to the quarters in turn.
inline constexpr int sm_quarters = 4;

/// Blocks of a kernel that a multiprocessor runs at once. registers: of a thread; shared_bytes: of
/// a block.
int resident_blocks(const GpuLimits& gpu, int threads, int registers, int shared_bytes);

/// Whether a multiprocessor has the shared memory of so many blocks of `bytes` each.
bool holds(const GpuLimits& gpu, int blocks, int bytes);

/// The architectures that plans are checked against, from CUDA's table of compute capabilities,
/// each with the multiprocessors of its largest GPU.
std::span<const GpuLimits> known_gpus();
/// Null when there is none of this name.
const GpuLimits* known_gpu(const std::string& arch);

}  // namespace fa
