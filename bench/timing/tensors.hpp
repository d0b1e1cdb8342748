// The tensors of a device that problems share, and the outputs that are compared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "check/accelerator.hpp"
#include "fa/attention.hpp"

namespace fa::bench {

/// Numbers of each tensor.
struct Sizes {
  int64_t q, k, v, out, lse;
};

class Tensors {
 public:
  /// Standard-normal q, k and v of bfloat16 or float16.
  Tensors(check::Accelerator& device, DType dtype, const Sizes& sizes);

  std::byte* q() const { return q_.get(); }
  std::byte* k() const { return k_.get(); }
  std::byte* v() const { return v_.get(); }
  std::byte* out() const { return out_.get(); }
  std::byte* lse() const { return lse_.get(); }
  Device device() const { return device_.device(); }
  Stream stream() const { return stream_; }

  /// One more input, kept as long as these tensors.
  std::byte* add(std::span<const std::byte> bytes);

  /// Every byte of the outputs 0xff, which is NaN; or of another tensor.
  void poison() const;
  void poison(std::byte* tensor, int64_t bytes) const;

  struct Results {
    std::vector<uint16_t> out;
    std::vector<float> lse;
  };
  /// Standard-normal numbers.
  void fill(std::byte* tensor, int64_t numbers, uint64_t seed) const;
  /// When all that is in the stream is done.
  void download(std::byte* to, const std::byte* from, size_t bytes) const;
  /// The first numbers of both outputs, as many as `to` has, when all that is in the stream is
  /// done.
  void download(Results& to) const;

  /// ||a - b|| / ||b||. NaN where either holds one; infinities are to be the same.
  double difference(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b) const;
  static double difference(const std::vector<float>& a, const std::vector<float>& b);

 private:
  struct Release {
    check::Accelerator* device;
    void operator()(std::byte* data) const { device->release(data); }
  };
  using Memory = std::unique_ptr<std::byte, Release>;
  Memory allocate(int64_t bytes) const;
  struct Close {
    check::Accelerator* device;
    void operator()(void* stream) const { device->close_stream(stream); }
  };

  check::Accelerator& device_;
  DType dtype_;
  Sizes sizes_;
  std::unique_ptr<void, Close> owner_;
  Stream stream_;
  Memory q_, k_, v_, out_, lse_;
  std::vector<Memory> added_;
};

}  // namespace fa::bench
