// The host as if it were a device: memory of its own, copies there and back, the CPU's kernels.
#pragma once

#include <cstring>
#include <new>

#include "check/accelerator.hpp"

namespace fa::test {

class HostAccelerator : public check::Accelerator {
 public:
  explicit HostAccelerator(const check::Offer& offer = check::cpu_offer) : offer_(offer) {}

  Device device() const override { return {}; }
  const check::Offer& offer() const override { return offer_; }
  check::DeviceMemory allocate(size_t bytes) override {
    return {static_cast<std::byte*>(::operator new(bytes, alignment)),
            [](std::byte* data) { ::operator delete(data, alignment); }};
  }
  check::DeviceStream open_stream() override { return nullptr; }
  void upload(std::byte* to, const std::byte* from, size_t bytes, Stream /*stream*/) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void download(std::byte* to, const std::byte* from, size_t bytes, Stream /*stream*/) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void synchronize(Stream /*stream*/) override {}

 private:
  static constexpr std::align_val_t alignment{256};
  const check::Offer& offer_;
};

}  // namespace fa::test
