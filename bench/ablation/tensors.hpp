// The tensors of a device that all cells share: each has as many tokens and as wide a hidden state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "check/accelerator.hpp"
#include "fa/attention.hpp"

namespace fa::bench {

inline constexpr int64_t tokens = 16384;  ///< batch * seqlen
inline constexpr int64_t hidden = 2048;   ///< heads * head_dim

class Tensors {
 public:
  /// Standard-normal q, k and v in bfloat16.
  explicit Tensors(check::Accelerator& device);

  std::byte* q() const { return q_.get(); }
  std::byte* k() const { return k_.get(); }
  std::byte* v() const { return v_.get(); }
  std::byte* out() const { return out_.get(); }
  std::byte* lse() const { return lse_.get(); }
  Stream stream() const { return stream_; }

  /// Every byte of the outputs 0xff, which is NaN.
  void poison() const;

  struct Results {
    std::vector<uint16_t> out;
    std::vector<float> lse;
  };
  /// The outputs of a problem with so many heads, when all that is in the stream is done.
  Results results(int64_t heads) const;

 private:
  struct Release {
    check::Accelerator* device;
    void operator()(std::byte* data) const { device->release(data); }
  };
  using Memory = std::unique_ptr<std::byte, Release>;
  Memory allocate(size_t bytes) const { return {device_.allocate(bytes), {&device_}}; }
  struct Close {
    check::Accelerator* device;
    void operator()(void* stream) const { device->close_stream(stream); }
  };

  check::Accelerator& device_;
  std::unique_ptr<void, Close> owner_;
  Stream stream_;
  Memory q_, k_, v_, out_, lse_;
};

/// ||a - b|| / ||b||. NaN where either holds one.
double difference(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b);  ///< bfloat16
double difference(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace fa::bench
