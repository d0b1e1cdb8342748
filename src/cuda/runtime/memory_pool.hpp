// Memory of devices that the convenience calls take for their workspace, in the order of a stream.
#pragma once

#include <bit>
#include <cstddef>

#include "cuda/runtime/driver_api.hpp"

namespace fa::cuda {

/// A workspace that is there for what is launched on `stream` between its construction and its
/// destruction; the device's pool keeps the memory for the next. In a stream capture both become
/// nodes of the graph. Wants a current context (CurrentContext). Throws Error (out_of_memory).
class DeviceWorkspace {
 public:
  DeviceWorkspace(int device, size_t bytes, void* stream);
  ~DeviceWorkspace();
  DeviceWorkspace(const DeviceWorkspace&) = delete;
  DeviceWorkspace& operator=(const DeviceWorkspace&) = delete;
  void* data() const { return std::bit_cast<void*>(pointer_); }

 private:
  CUdeviceptr pointer_ = 0;
  CUstream stream_;
};

/// Gives back to the driver what the pools keep and no stream uses.
void release_device_memory();

}  // namespace fa::cuda
