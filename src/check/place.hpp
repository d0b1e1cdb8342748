// The place where the calls of a problem run: the host, or a device that holds a mirror of their
// memory.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "check/accelerator.hpp"
#include "check/array.hpp"
#include "fa/attention.hpp"

namespace fa::check {

/// Pieces of the host's memory that a call's tensors lie in, each once.
class MemoryList {
 public:
  void add(std::span<std::byte> bytes);
  void add(const Array& array) {
    if (array.given()) add(array.memory().bytes());
  }
  const std::vector<std::span<std::byte>>& pieces() const { return pieces_; }

 private:
  std::vector<std::span<std::byte>> pieces_;
};

/// The way in which a place takes memory of its device.
enum class Allocation : uint8_t {
  arena,  ///< once, for all calls
  each    ///< one for each piece and call, so that compute-sanitizer sees what goes beyond it
};

/// One thread's place. A mirror has the same bytes as the host, at the same distance from a 64-byte
/// boundary, with canaries around each piece.
class Place {
 public:
  /// The host itself.
  Place() = default;
  explicit Place(Accelerator& accelerator, Allocation allocation = Allocation::arena);
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  /// The arguments of a call as they lie here.
  class Here {
   public:
    Tensor operator()(const Tensor& tensor) const;
    ForwardArgs operator()(ForwardArgs args) const;
    BackwardArgs operator()(BackwardArgs args) const;
    Options operator()(Options options) const;
    void* operator()(void* host) const;
    Stream stream() const { return place_.stream_.get(); }

   private:
    friend class Place;
    explicit Here(const Place& place) : place_(place) {}
    const Place& place_;
  };

  /// Copies `memory` to the device, lets `calls` put calls into the stream, waits for them and
  /// copies everything back: whatever was written, input or output, shows on the host. Throws what
  /// `calls` throws, and Error when a canary was overwritten. On the host it just calls.
  void run(const MemoryList& memory, const std::function<void(const Here&)>& calls);

 private:
  struct Piece {
    std::span<std::byte> host;
    size_t offset;     ///< in the arena
    DeviceMemory own;  ///< without one
    std::byte* device;
  };
  void lay_out(const MemoryList& memory);
  void upload();
  void download();
  void expect_canaries() const;
  void release_pieces();
  std::byte* mirrored(const void* host) const;  ///< null when in none of the pieces

  Accelerator* accelerator_ = nullptr;
  Allocation allocation_ = Allocation::arena;
  DeviceStream stream_;
  DeviceMemory arena_;
  std::vector<Piece> pieces_;
  size_t capacity_ = 0;             ///< of the arena
  std::vector<std::byte> staging_;  ///< the arena's content, on the host
};

}  // namespace fa::check
