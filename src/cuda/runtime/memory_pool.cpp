#include "cuda/runtime/memory_pool.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <map>
#include <mutex>

#include "cuda/runtime/device.hpp"
#include "fa/attention.hpp"

namespace fa::cuda {

namespace {

struct Pools {
  std::mutex mutex;
  std::map<int, CUmemoryPool> of_device;
};

Pools& pools() {
  static auto* instance = new Pools;  // never destroyed: threads may still call at exit
  return *instance;
}

CUmemoryPool make_pool(int device) {
  const Driver& api = driver();
  int supported = 0;
  check(api.device_attribute(&supported, device_attribute::memory_pools, device),
        "asking for a device's properties");
  if (supported == 0) {
    throw Error(Status::unsupported,
                fmt::format("device: {} has no memory pools; pass a workspace to a plan", device));
  }
  const RelaxedCapture relaxed;
  CUmemPoolProps properties;
  properties.location_id = device;
  CUmemoryPool pool = nullptr;
  check(api.pool_create(&pool, &properties), "making a memory pool");
  uint64_t keep_all = UINT64_MAX;
  check(api.pool_set_attribute(pool, pool_release_threshold, &keep_all), "setting a memory pool");
  return pool;
}

CUmemoryPool pool_of(int device) {
  const std::lock_guard lock(pools().mutex);
  CUmemoryPool& pool = pools().of_device[device];
  if (pool == nullptr) pool = make_pool(device);
  return pool;
}

}  // namespace

DeviceWorkspace::DeviceWorkspace(int device, size_t bytes, void* stream)
    : stream_(static_cast<CUstream>(stream)) {
  if (bytes == 0) return;
  const CUresult result = driver().pool_alloc(&pointer_, bytes, pool_of(device), stream_);
  if (result != success) {  // the text is not made for a call that is right
    check(result, fmt::format("taking a workspace of {} bytes", bytes).c_str());
  }
}

DeviceWorkspace::~DeviceWorkspace() {
  if (pointer_ != 0) driver().free_async(pointer_, stream_);
}

void release_device_memory() {
  const std::lock_guard lock(pools().mutex);
  for (const auto& [device, pool] : pools().of_device) {
    if (pool != nullptr) check(driver().pool_trim(pool, 0), "trimming a memory pool");
  }
}

}  // namespace fa::cuda
