// The tensors of a device that problems share, and the outputs that are compared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cuda/runtime/memory.hpp"
#include "fa/attention.hpp"

namespace fa::bench {

/// Numbers of each tensor.
struct Sizes {
  int64_t q, k, v, out, lse;
};

class Tensors {
 public:
  /// Standard-normal q, k and v of bfloat16 or float16, on a CUDA device.
  Tensors(int device, DType dtype, const Sizes& sizes);

  std::byte* q() const { return q_.data(); }
  std::byte* k() const { return k_.data(); }
  std::byte* v() const { return v_.data(); }
  std::byte* out() const { return out_.data(); }
  std::byte* lse() const { return lse_.data(); }
  Device device() const;
  cuda::CUstream stream() const { return stream_.get(); }

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
  cuda::Buffer allocate(int64_t bytes) const;

  int device_;
  DType dtype_;
  Sizes sizes_;
  cuda::Stream stream_;
  cuda::Buffer q_, k_, v_, out_, lse_;
  std::vector<cuda::Buffer> added_;
};

}  // namespace fa::bench
