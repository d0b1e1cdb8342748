// Memory, streams and events of a device, which programs and tests own: the library itself takes
// its workspaces from pools (memory_pool.hpp). All may be used by threads without a context, and
// throw Error with the driver's name of what went wrong.
#pragma once

#include <cstddef>
#include <memory>

#include "cuda/runtime/driver_api.hpp"

namespace fa::cuda {

/// Memory of a device, on a boundary of at least 256 bytes; its content is what was there before.
class Buffer {
 public:
  /// Throws Error (out_of_memory). `bytes` is not 0.
  Buffer(int device, size_t bytes);

  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    int device;
    void operator()(std::byte* data) const;
  };
  size_t size_;
  std::unique_ptr<std::byte, Free> data_;
};

/// A stream that the default stream does not wait for.
class Stream {
 public:
  explicit Stream(int device);

  CUstream get() const { return stream_.get(); }
  /// Waits for all that was put into it.
  void synchronize() const;

 private:
  struct Destroy {
    int device;
    void operator()(CUstream stream) const;
  };
  std::unique_ptr<CUstr, Destroy> stream_;
};

/// A point of a stream, whose time the device tells.
class Event {
 public:
  explicit Event(int device);

  /// In a stream of the same device.
  void record(CUstream stream);
  /// Waits until the device has come to this point. Both were recorded.
  double milliseconds_since(const Event& begin) const;

 private:
  struct Destroy {
    int device;
    void operator()(CUevent event) const;
  };
  std::unique_ptr<CUev, Destroy> event_;
};

/// Copies and fills, in the order of a stream of the device, or of its default stream (null). The
/// host's memory must stay until the stream is synchronized.
void upload(int device, std::byte* to, const void* from, size_t bytes, CUstream stream);
void download(int device, void* to, const std::byte* from, size_t bytes, CUstream stream);
void fill(int device, std::byte* to, unsigned char byte, size_t bytes, CUstream stream);
void synchronize(int device, CUstream stream);

}  // namespace fa::cuda
