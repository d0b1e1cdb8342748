#include "timing/tensors.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "check/cuda_accelerator.hpp"
#include "check/random.hpp"
#include "cuda/runtime/parallel.hpp"
#include "kernels/common/float16.h"

namespace fa::bench {

namespace {

constexpr int64_t piece = 1 << 20;  // numbers that a thread draws at a time

template <typename T, typename ToFloat>
double relative_difference(const std::vector<T>& a, const std::vector<T>& b, ToFloat to_float) {
  const auto count = static_cast<int64_t>(a.size());
  double error = 0, norm = 0;
#pragma omp parallel for reduction(+ : error, norm)
  for (int64_t n = 0; n < count; ++n) {
    const double x = to_float(a[n]), y = to_float(b[n]);
    if (x == y && std::isinf(y)) continue;
    error += (x - y) * (x - y);
    norm += y * y;
  }
  return std::sqrt(error / norm);
}

}  // namespace

Tensors::Tensors(int device, DType dtype, const Sizes& sizes)
    : device_(device),
      dtype_(dtype),
      sizes_(sizes),
      stream_(device),
      q_(allocate(2 * sizes.q)),
      k_(allocate(2 * sizes.k)),
      v_(allocate(2 * sizes.v)),
      out_(allocate(2 * sizes.out)),
      lse_(allocate(4 * sizes.lse)) {
  fill(q(), sizes.q, 1);
  fill(k(), sizes.k, 2);
  fill(v(), sizes.v, 3);
}

Device Tensors::device() const { return {check::cuda_device_type, device_}; }

cuda::Buffer Tensors::allocate(int64_t bytes) const {
  return {device_, static_cast<size_t>(bytes)};
}

void Tensors::fill(std::byte* tensor, int64_t numbers, uint64_t seed) const {
  std::vector<uint16_t> host(static_cast<size_t>(numbers));
  cuda::parallel_for((numbers + piece - 1) / piece, 0, [&](int64_t n) {
    check::Random random(seed, static_cast<uint64_t>(n));
    for (int64_t i = n * piece; i < std::min((n + 1) * piece, numbers); ++i) {
      const auto bits = std::bit_cast<uint32_t>(random.normal());
      host[i] = dtype_ == bfloat16 ? narrow::f32_bits_to_bf16(bits) : narrow::f32_bits_to_f16(bits);
    }
  });
  cuda::upload(device_, tensor, host.data(), 2 * host.size(), stream());
  stream_.synchronize();
}

std::byte* Tensors::add(std::span<const std::byte> bytes) {
  std::byte* const data = added_.emplace_back(allocate(static_cast<int64_t>(bytes.size()))).data();
  cuda::upload(device_, data, bytes.data(), bytes.size(), stream());
  stream_.synchronize();
  return data;
}

void Tensors::poison(std::byte* tensor, int64_t bytes) const {
  cuda::fill(device_, tensor, 0xff, static_cast<size_t>(bytes), stream());
}

void Tensors::poison() const {
  poison(out(), 2 * sizes_.out);
  poison(lse(), 4 * sizes_.lse);
}

void Tensors::download(std::byte* to, const std::byte* from, size_t bytes) const {
  cuda::download(device_, to, from, bytes, stream());
  stream_.synchronize();
}

void Tensors::download(Results& to) const {
  cuda::download(device_, to.out.data(), out(), sizeof(uint16_t) * to.out.size(), stream());
  cuda::download(device_, to.lse.data(), lse(), sizeof(float) * to.lse.size(), stream());
  stream_.synchronize();
}

double Tensors::difference(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b) const {
  return dtype_ == bfloat16
             ? relative_difference(
                   a, b,
                   [](uint16_t x) { return std::bit_cast<float>(narrow::bf16_to_f32_bits(x)); })
             : relative_difference(a, b, [](uint16_t x) {
                 return std::bit_cast<float>(narrow::f16_to_f32_bits(x));
               });
}

double Tensors::difference(const std::vector<float>& a, const std::vector<float>& b) {
  return relative_difference(a, b, [](float x) { return x; });
}

}  // namespace fa::bench
