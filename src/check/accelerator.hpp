// A device with memory of its own, as the checks need it.
#pragma once

#include <cstddef>
#include <memory>

#include "check/offer.hpp"
#include "fa/attention.hpp"

namespace fa::check {

/// Memory of a device and a stream, given back with their last owner, which must be before the
/// device goes.
using DeviceMemory = std::shared_ptr<std::byte>;
using DeviceStream = std::shared_ptr<void>;

/// Its functions may be called by several threads. Errors are exceptions.
class Accelerator {
 public:
  Accelerator() = default;
  virtual ~Accelerator() = default;
  Accelerator(const Accelerator&) = delete;
  Accelerator& operator=(const Accelerator&) = delete;

  /// The device of a tensor in its memory.
  virtual Device device() const = 0;
  virtual const Offer& offer() const = 0;

  /// On a boundary of at least 256 bytes.
  virtual DeviceMemory allocate(size_t bytes) = 0;
  /// One that the default stream does not wait for.
  virtual DeviceStream open_stream() = 0;
  /// Copies in the stream's order; the host's memory must stay until `synchronize`.
  virtual void upload(std::byte* to, const std::byte* from, size_t bytes, Stream stream) = 0;
  virtual void download(std::byte* to, const std::byte* from, size_t bytes, Stream stream) = 0;
  /// Waits for all that was put into the stream.
  virtual void synchronize(Stream stream) = 0;
};

}  // namespace fa::check
