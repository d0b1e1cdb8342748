#include "gpu/repeats.hpp"

#include <algorithm>
#include <cstdlib>
#include <span>

#include "cuda/launch/launch.hpp"
#include "cuda/launch/passes.hpp"
#include "cuda/runtime/device.hpp"
#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

constexpr int threads = 256;
constexpr unsigned char poison = 0xff;

/// Parameters of the kernel below.
struct Comparison {
  std::byte* result;
  std::byte* first;
  int64_t words;
  unsigned* differs;  ///< becomes 1
  int is_first;       ///< the result is the first one
  int exponent_bits;  ///< of numbers of 16 bits that are sums in any order; 0: of others
};

const KernelSpec& comparison() {
  static const KernelSpec spec{.entry = "fa_test_compare",
                               .program = R"(
struct Comparison {
  unsigned* result; unsigned* first; long long words; unsigned* differs;
  int is_first, exponent_bits;
};
// Of its 16 bits; where it is not finite, more than is_near takes for near.
__device__ float number(unsigned bits, int exponent_bits) {
  const int shift = 23 - (15 - exponent_bits);  // bits of float32's fraction, and of its own
  const float size = __uint_as_float((bits & 0x7fff) << shift);
  const float x = exponent_bits == 8 ? size : size * 0x1p112f;
  return bits & 0x8000 ? -x : x;
}
__device__ bool is_near(unsigned a, unsigned b, int exponent_bits) {
  const float x = number(a, exponent_bits), y = number(b, exponent_bits);
  const float largest = exponent_bits == 8 ? 3e38f : 65504;
  const float size = x < 0 ? -x : x, apart = x < y ? y - x : x - y;
  return a == b || (size <= largest && apart <= size / 64 + 1e-3f);
}
extern "C" __global__ void fa_test_compare(const __grid_constant__ Comparison p) {
  for (long long n = blockIdx.x * 256ll + threadIdx.x; n < p.words; n += gridDim.x * 256ll) {
    const unsigned x = p.result[n];
    if (p.is_first) p.first[n] = x;
    const unsigned first = p.first[n];
    const bool same = p.exponent_bits == 0
        ? x == first
        : is_near(first & 0xffff, x & 0xffff, p.exponent_bits) &&
          is_near(first >> 16, x >> 16, p.exponent_bits);
    if (!same) *p.differs = 1;
  }
}
)",
                               .constants = "",
                               .threads = threads};
  return spec;
}

}  // namespace

int64_t launches() {
  const char* text = std::getenv("FA_LAUNCHES");
  return std::max<int64_t>(text == nullptr ? 3 : std::strtol(text, nullptr, 10), 2);
}

int64_t launches_that_differ(const check::Case& c, const std::vector<Repeated>& outputs) {
  const int64_t count = launches();
  const GpuTensor differs({count}, int32);
  differs.set_integers(std::vector<int64_t>(static_cast<size_t>(count), 0));
  std::vector<GpuMemory> firsts;
  for (const auto& [output, exact] : outputs) firsts.emplace_back(output->memory().bytes().size());
  GpuPlace place;
  place.run(c.memory(), [&](const check::Place::Here& here) {
    const Options options = here(c.options());
    const auto call = c.spec.backward ? validate(here(c.backward_args()), options, Data::required)
                                      : validate(here(c.forward_args()), options, Data::required);
    const auto plan = cuda::plan(call.problem);
    const cuda::CurrentContext context(0, here.stream());
    for (int64_t launch = 0; launch < count; ++launch) {
      for (const auto& [output, exact] : outputs) {
        const std::span<std::byte> bytes = output->memory().bytes();
        cuda::fill(0, static_cast<std::byte*>(here(bytes.data())), poison, bytes.size(),
                   static_cast<cuda::CUstream>(here.stream()));
      }
      plan->run(call, here.stream());
      for (size_t n = 0; n < outputs.size(); ++n) {
        const std::span<std::byte> bytes = outputs[n].output->memory().bytes();
        const int exponent_bits = call.problem.dtype == bfloat16 ? 8 : 5;
        const Comparison parameters{.result = static_cast<std::byte*>(here(bytes.data())),
                                    .first = firsts[n].data(),
                                    .words = static_cast<int64_t>(bytes.size() / 4),
                                    .differs = static_cast<unsigned*>(differs.data()) + launch,
                                    .is_first = launch == 0,
                                    .exponent_bits = outputs[n].exact ? 0 : exponent_bits};
        cuda::launch(cuda::load(comparison(), 0), comparison(), {132}, &parameters, here.stream());
      }
    }
  });
  int64_t different = 0;
  for (const double flag : differs.values()) different += flag != 0;
  return different;
}

}  // namespace fa::test
