#include "cuda/runtime/memory.hpp"

#include <fmt/format.h>

#include "cuda/runtime/device.hpp"
#include "cuda/runtime/driver.hpp"

namespace fa::cuda {

namespace {

constexpr unsigned non_blocking = 1;  // does not wait for the default stream

CUdeviceptr address(const std::byte* data) { return reinterpret_cast<CUdeviceptr>(data); }

std::byte* allocate(int device, size_t bytes) {
  const CurrentContext context(device);
  CUdeviceptr data = 0;
  check(driver().alloc(&data, bytes), fmt::format("allocating {} bytes", bytes).c_str());
  return reinterpret_cast<std::byte*>(data);  // NOLINT(performance-no-int-to-ptr): the driver's
}

CUstream make_stream(int device) {
  const CurrentContext context(device);
  CUstream stream = nullptr;
  check(driver().stream_create(&stream, non_blocking), "making a stream");
  return stream;
}

CUevent make_event(int device) {
  const CurrentContext context(device);
  CUevent event = nullptr;
  check(driver().event_create(&event, 0), "making an event");
  return event;
}

}  // namespace

Buffer::Buffer(int device, size_t bytes) : size_(bytes), data_(allocate(device, bytes), {device}) {}

void Buffer::Free::operator()(std::byte* data) const {
  const CurrentContext context(device);
  driver().free(address(data));
}

Stream::Stream(int device) : stream_(make_stream(device), {device}) {}

void Stream::synchronize() const { cuda::synchronize(stream_.get_deleter().device, get()); }

void Stream::Destroy::operator()(CUstream stream) const {
  const CurrentContext context(device);
  driver().stream_destroy(stream);
}

Event::Event(int device) : event_(make_event(device), {device}) {}

void Event::record(CUstream stream) {
  const CurrentContext context(event_.get_deleter().device, stream);
  check(driver().event_record(event_.get(), stream), "recording an event");
}

double Event::milliseconds_since(const Event& begin) const {
  const CurrentContext context(event_.get_deleter().device);
  float milliseconds = 0;
  check(driver().event_synchronize(event_.get()), "waiting for an event");
  check(driver().event_elapsed(&milliseconds, begin.event_.get(), event_.get()),
        "asking for the time between events");
  return milliseconds;
}

void Event::Destroy::operator()(CUevent event) const {
  const CurrentContext context(device);
  driver().event_destroy(event);
}

void upload(int device, std::byte* to, const void* from, size_t bytes, CUstream stream) {
  if (bytes == 0) return;
  const CurrentContext context(device);
  check(driver().copy_to_device(address(to), from, bytes, stream), "copying to the device");
}

void download(int device, void* to, const std::byte* from, size_t bytes, CUstream stream) {
  if (bytes == 0) return;
  const CurrentContext context(device);
  check(driver().copy_to_host(to, address(from), bytes, stream), "copying to the host");
}

void fill(int device, std::byte* to, unsigned char byte, size_t bytes, CUstream stream) {
  if (bytes == 0) return;
  const CurrentContext context(device);
  check(driver().set_bytes(address(to), byte, bytes, stream), "filling memory");
}

void synchronize(int device, CUstream stream) {
  const CurrentContext context(device);
  check(driver().stream_synchronize(stream), "waiting for the device");
}

}  // namespace fa::cuda
