#include "check/cuda_accelerator.hpp"

#include <fmt/format.h>

#include "cuda/runtime/device.hpp"
#include "cuda/runtime/driver.hpp"
#include "cuda/runtime/memory.hpp"

namespace fa::check {
namespace {

cuda::CUstream stream_of(Stream stream) { return static_cast<cuda::CUstream>(stream); }

/// Leaves the calling thread without a context, as most threads are that call the library.
class Cuda : public Accelerator {
 public:
  explicit Cuda(int32_t id) : id_(id) { (void)cuda::device(id); }

  Device device() const override { return {cuda_device_type, id_}; }
  const Offer& offer() const override {
    return cuda::device(id_).arch() == "sm_90a" ? hopper_offer : cuda_offer;
  }

  DeviceMemory allocate(size_t bytes) override {
    const auto buffer = std::make_shared<cuda::Buffer>(id_, bytes);
    return {buffer, buffer->data()};
  }
  DeviceStream open_stream() override {
    const auto stream = std::make_shared<cuda::Stream>(id_);
    return {stream, stream->get()};
  }

  void upload(std::byte* to, const std::byte* from, size_t bytes, Stream stream) override {
    cuda::upload(id_, to, from, bytes, stream_of(stream));
  }
  void download(std::byte* to, const std::byte* from, size_t bytes, Stream stream) override {
    cuda::download(id_, to, from, bytes, stream_of(stream));
  }
  void synchronize(Stream stream) override { cuda::synchronize(id_, stream_of(stream)); }

 private:
  int32_t id_;
};

}  // namespace

std::unique_ptr<Accelerator> cuda_accelerator(int32_t id) { return std::make_unique<Cuda>(id); }

std::string no_cuda_reason() {
  try {
    (void)cuda::device(0);
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

std::string cuda_text(int32_t id) {
  const cuda::DeviceInfo& info = cuda::device(id);
  const int version = cuda::driver().version;
  return fmt::format("{}, compute capability {}.{}, driver for CUDA {}.{}", info.name, info.major,
                     info.minor, version / 1000, version % 1000 / 10);
}

}  // namespace fa::check
