#include "ablation/tensors.hpp"

#include <bit>
#include <cmath>

#include "check/random.hpp"
#include "cuda/device.hpp"
#include "cuda/parallel.hpp"
#include "kernels/common/float16.h"

namespace fa::bench {

namespace {

constexpr int64_t numbers = tokens * hidden;
constexpr size_t most_lse_bytes = 4 * numbers / 8;  // of heads of 8

template <typename T, typename ToFloat>
double relative_difference(const std::vector<T>& a, const std::vector<T>& b, ToFloat to_float) {
  const auto count = static_cast<int64_t>(a.size());
  double error = 0, norm = 0;
#pragma omp parallel for reduction(+ : error, norm)
  for (int64_t n = 0; n < count; ++n) {
    const double x = to_float(a[n]), y = to_float(b[n]);
    error += (x - y) * (x - y);
    norm += y * y;
  }
  return std::sqrt(error / norm);
}

}  // namespace

Tensors::Tensors(check::Accelerator& device)
    : device_(device),
      owner_(device.open_stream(), {&device}),
      stream_(owner_.get()),
      q_(allocate(2 * numbers)),
      k_(allocate(2 * numbers)),
      v_(allocate(2 * numbers)),
      out_(allocate(2 * numbers)),
      lse_(allocate(most_lse_bytes)) {
  std::byte* const inputs[] = {q(), k(), v()};
  std::vector<std::vector<uint16_t>> hosts(3, std::vector<uint16_t>(numbers));
  cuda::parallel_for(3, 0, [&](int64_t which) {
    check::Random random(1, static_cast<uint64_t>(which));
    for (uint16_t& x : hosts[which]) {
      x = narrow::f32_bits_to_bf16(std::bit_cast<uint32_t>(random.normal()));
    }
    device_.upload(inputs[which], reinterpret_cast<const std::byte*>(hosts[which].data()),
                   2 * numbers, stream_);
  });
  device_.synchronize(stream_);
}

void Tensors::poison() const {
  const cuda::CurrentContext context(device_.device().id);
  const auto fill = [&](const Memory& memory, size_t bytes) {
    cuda::check(cuda::driver().set_bytes(reinterpret_cast<cuda::CUdeviceptr>(memory.get()), 0xff,
                                         bytes, static_cast<cuda::CUstream>(stream_)),
                "filling memory");
  };
  fill(out_, 2 * numbers);
  fill(lse_, most_lse_bytes);
}

Tensors::Results Tensors::results(int64_t heads) const {
  Results results{std::vector<uint16_t>(numbers), std::vector<float>(heads * tokens)};
  device_.download(reinterpret_cast<std::byte*>(results.out.data()), out(), 2 * numbers, stream_);
  device_.download(reinterpret_cast<std::byte*>(results.lse.data()), lse(),
                   sizeof(float) * results.lse.size(), stream_);
  device_.synchronize(stream_);
  return results;
}

double difference(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b) {
  return relative_difference(
      a, b, [](uint16_t x) { return std::bit_cast<float>(narrow::bf16_to_f32_bits(x)); });
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  return relative_difference(a, b, [](float x) { return x; });
}

}  // namespace fa::bench
