// A float32 tensor that owns its numbers, for small cases written by hand.
#pragma once

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "fa/attention.hpp"

namespace fa::test {

struct Floats {
  std::vector<int64_t> shape;
  std::vector<float> data;

  Floats() = default;
  explicit Floats(std::vector<int64_t> extents, float value = 0) : shape(std::move(extents)) {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    data.assign(n, value);
  }
  Floats(std::vector<int64_t> extents, std::vector<float> values)
      : shape(std::move(extents)), data(std::move(values)) {}

  operator Tensor() const {  // NOLINT(google-explicit-constructor): passed where a Tensor is asked
    Tensor t;
    t.data = const_cast<float*>(data.data());
    t.ndim = static_cast<int32_t>(shape.size());
    t.dtype = float32;
    t.shape = shape.data();
    return t;
  }
};

/// Normal numbers rounded to multiples of 2^-10: small steps of a finite difference stay exact.
inline Floats normal(std::vector<int64_t> shape, std::mt19937& random) {
  Floats t(std::move(shape));
  std::normal_distribution<float> distribution;
  for (float& x : t.data)
    x = static_cast<float>(static_cast<int>(1024 * distribution(random))) / 1024;
  return t;
}

/// An int32 or int64 tensor of one dimension.
template <typename Int>
struct Ints {
  std::vector<Int> data;
  int64_t shape[1];

  explicit Ints(std::vector<Int> values)
      : data(std::move(values)), shape{static_cast<int64_t>(data.size())} {}
  operator Tensor() const {  // NOLINT(google-explicit-constructor)
    Tensor t;
    t.data = const_cast<Int*>(data.data());
    t.ndim = 1;
    t.dtype = sizeof(Int) == 8 ? int64 : int32;
    t.shape = shape;
    return t;
  }
};

}  // namespace fa::test
