#include "check/cuda_accelerator.hpp"

#include <fmt/format.h>

#include "cuda/runtime/device.hpp"
#include "cuda/runtime/driver.hpp"

namespace fa::check {
namespace {

constexpr unsigned non_blocking = 1;  // does not wait for the default stream

cuda::CUstream stream_of(Stream stream) { return static_cast<cuda::CUstream>(stream); }
cuda::CUdeviceptr address(const std::byte* data) {
  return reinterpret_cast<cuda::CUdeviceptr>(data);
}

/// Leaves the calling thread without a context, as most threads are that call the library.
class Cuda : public Accelerator {
 public:
  explicit Cuda(int32_t id) : id_(id) { (void)cuda::device(id); }

  Device device() const override { return {cuda_device_type, id_}; }
  const Offer& offer() const override { return cuda_offer; }

  std::byte* allocate(size_t bytes) override {
    const cuda::CurrentContext context(id_);
    cuda::CUdeviceptr data = 0;
    cuda::check(cuda::driver().alloc(&data, bytes),
                fmt::format("allocating {} bytes", bytes).c_str());
    return reinterpret_cast<std::byte*>(data);  // NOLINT(performance-no-int-to-ptr): the driver's
  }
  void release(std::byte* data) override {
    const cuda::CurrentContext context(id_);
    cuda::driver().free(address(data));
  }

  Stream open_stream() override {
    const cuda::CurrentContext context(id_);
    cuda::CUstream stream = nullptr;
    cuda::check(cuda::driver().stream_create(&stream, non_blocking), "making a stream");
    return stream;
  }
  void close_stream(Stream stream) override {
    const cuda::CurrentContext context(id_);
    cuda::driver().stream_destroy(stream_of(stream));
  }

  void upload(std::byte* to, const std::byte* from, size_t bytes, Stream stream) override {
    if (bytes == 0) return;
    const cuda::CurrentContext context(id_);
    cuda::check(cuda::driver().copy_to_device(address(to), from, bytes, stream_of(stream)),
                "copying to the device");
  }
  void download(std::byte* to, const std::byte* from, size_t bytes, Stream stream) override {
    if (bytes == 0) return;
    const cuda::CurrentContext context(id_);
    cuda::check(cuda::driver().copy_to_host(to, address(from), bytes, stream_of(stream)),
                "copying to the host");
  }
  void synchronize(Stream stream) override {
    const cuda::CurrentContext context(id_);
    cuda::check(cuda::driver().stream_synchronize(stream_of(stream)), "waiting for the device");
  }

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
