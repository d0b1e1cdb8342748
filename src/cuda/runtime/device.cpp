#include "cuda/runtime/device.hpp"

#include <fmt/format.h>

#include <memory>
#include <mutex>
#include <vector>

#include "fa/attention.hpp"

namespace fa::cuda {

namespace {

struct Slot {
  std::once_flag known_once, retained_once;
  DeviceInfo info;
  CUcontext primary = nullptr;
};

struct Devices {
  Devices() {
    check(driver().device_count(&count), "counting devices");
    slots = std::make_unique<Slot[]>(count);
  }
  int count = 0;
  std::unique_ptr<Slot[]> slots;
};

Slot& slot(int id) {
  static auto* devices = new Devices;  // never destroyed: threads may still call at exit
  if (id < 0 || id >= devices->count) {
    throw Error(
        Status::invalid_argument,
        fmt::format("device: there is no CUDA device {}; there {}", id,
                    devices->count == 1 ? "is one, 0" : fmt::format("are {}", devices->count)));
  }
  return devices->slots[id];
}

DeviceInfo query(int id) {
  const Driver& api = driver();
  CUdevice handle = 0;
  check(api.device_get(&handle, id), "looking up a device");
  const auto attribute = [&](int which) {
    int value = 0;
    check(api.device_attribute(&value, which, handle), "asking for a device's properties");
    return value;
  };
  char name[256] = {};
  check(api.device_name(name, sizeof name - 1, handle), "asking for a device's name");
  return {.id = id,
          .name = name,
          .major = attribute(device_attribute::major),
          .minor = attribute(device_attribute::minor),
          .sm_count = attribute(device_attribute::sm_count),
          .shared_per_block = attribute(device_attribute::shared_per_block),
          .shared_per_sm = attribute(device_attribute::shared_per_sm),
          .threads_per_sm = attribute(device_attribute::threads_per_sm),
          .blocks_per_sm = attribute(device_attribute::blocks_per_sm),
          .registers_per_sm = attribute(device_attribute::registers_per_sm),
          .l2_bytes = attribute(device_attribute::l2_bytes)};
}

CUcontext primary_context(int id) {
  Slot& found = slot(id);
  std::call_once(found.retained_once, [&] {
    CUdevice handle = 0;
    check(driver().device_get(&handle, id), "looking up a device");
    check(driver().primary_context_retain(&found.primary, handle),
          "retaining a device's primary context");
  });
  return found.primary;
}

bool is_object(void* stream) { return reinterpret_cast<uintptr_t>(stream) > stream_per_thread; }

}  // namespace

std::string DeviceInfo::arch() const {
  return fmt::format("sm_{}{}{}", major, minor, major == 9 && minor == 0 ? "a" : "");
}

int device_count() {
  const Driver* api = driver_if_any();
  int count = 0;
  if (api != nullptr) check(api->device_count(&count), "counting devices");
  return count;
}

const DeviceInfo& device(int id) {
  Slot& found = slot(id);
  std::call_once(found.known_once, [&] { found.info = query(id); });
  const DeviceInfo& info = found.info;
  if (info.major < 8) {
    throw Error(Status::unsupported,
                fmt::format("device: {} ({}) has compute capability {}.{}; at least 8.0 is needed",
                            id, info.name, info.major, info.minor));
  }
  return info;
}

CurrentContext::CurrentContext(int device, void* stream) {
  const Driver& api = driver();
  CUcontext context = nullptr;
  CUdevice current = -1;
  const auto is_right = [&] {
    return api.context_device(&current) == success && current == device;
  };
  if (api.context_current(&context) == success && context != nullptr && is_right()) return;
  if (is_object(stream)) {
    check(api.stream_context(static_cast<CUstream>(stream), &context),
          "asking for the stream's context");
  } else {
    context = primary_context(device);
  }
  check(api.context_push(context), "making a context current");
  pushed_ = true;
  if (is_object(stream) && !is_right()) {
    api.context_pop(&context);
    throw Error(
        Status::invalid_argument,
        fmt::format("stream: belongs to device {}, and the tensors to device {}", current, device));
  }
}

CurrentContext::~CurrentContext() {
  CUcontext context = nullptr;
  if (pushed_) driver().context_pop(&context);
}

RelaxedCapture::RelaxedCapture() {
  check(driver().exchange_capture_mode(&mode_), "relaxing the thread's capture mode");
}

RelaxedCapture::~RelaxedCapture() { driver().exchange_capture_mode(&mode_); }

}  // namespace fa::cuda
