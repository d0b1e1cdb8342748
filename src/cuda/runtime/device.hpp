// CUDA devices, and the thread's state that a call needs on one.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/runtime/driver.hpp"

namespace fa::cuda {

struct DeviceInfo {
  int id = 0;
  std::string name;
  int major = 0;  ///< compute capability
  int minor = 0;
  int sm_count = 0;
  int shared_per_block = 0;  ///< bytes, the most that a kernel may opt in to
  int shared_per_sm = 0;
  int threads_per_sm = 0;
  int blocks_per_sm = 0;
  int registers_per_sm = 0;
  int64_t l2_bytes = 0;
  /// What kernels are compiled for: "sm_80", "sm_86"; "sm_90a" for 9.0, whose wgmma needs the a.
  std::string arch() const;
};

/// 0 where there is no driver.
int device_count();

/// Throws Error: there is no driver or no such device, or it is older than compute capability 8.0.
const DeviceInfo& device(int id);

/// While it lives, the thread's current context is one of this device, so that what is launched
/// goes there from any thread: the current one where it fits, else the stream's own, else the
/// device's primary one.
class CurrentContext {
 public:
  explicit CurrentContext(int device, void* stream = nullptr);
  ~CurrentContext();
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;

 private:
  bool pushed_ = false;
};

/// While it lives, the thread may do what a stream capture forbids (load code, make a pool),
/// without breaking the capture.
class RelaxedCapture {
 public:
  RelaxedCapture();
  ~RelaxedCapture();
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  int mode_ = capture_mode_relaxed;
};

}  // namespace fa::cuda
