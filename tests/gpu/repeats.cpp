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
  unsigned* differs;  ///< becomes 1; null: the result is the first one
};

const KernelSpec& comparison() {
  static const KernelSpec spec{.entry = "fa_test_compare",
                               .program = R"(
struct Comparison { unsigned* result; unsigned* first; long long words; unsigned* differs; };
extern "C" __global__ void fa_test_compare(const __grid_constant__ Comparison p) {
  for (long long n = blockIdx.x * 256ll + threadIdx.x; n < p.words; n += gridDim.x * 256ll) {
    if (p.differs == nullptr) {
      p.first[n] = p.result[n];
    } else if (p.first[n] != p.result[n]) {
      *p.differs = 1;
    }
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

int64_t launches_that_differ(const check::Case& c,
                             const std::vector<const check::Array*>& outputs) {
  const int64_t count = launches();
  const GpuTensor differs({count}, int32);
  differs.set_integers(std::vector<int64_t>(static_cast<size_t>(count), 0));
  std::vector<GpuMemory> firsts;
  for (const check::Array* output : outputs) firsts.emplace_back(output->memory().bytes().size());
  GpuPlace place;
  place.run(c.memory(), [&](const check::Place::Here& here) {
    const Options options = here(c.options());
    const auto call = c.spec.backward ? validate(here(c.backward_args()), options, Data::required)
                                      : validate(here(c.forward_args()), options, Data::required);
    const auto plan = cuda::plan(call.problem);
    const cuda::CurrentContext context(0, here.stream());
    for (int64_t launch = 0; launch < count; ++launch) {
      for (const check::Array* output : outputs) {
        const std::span<std::byte> bytes = output->memory().bytes();
        cuda::fill(0, static_cast<std::byte*>(here(bytes.data())), poison, bytes.size(),
                   static_cast<cuda::CUstream>(here.stream()));
      }
      plan->run(call, here.stream());
      for (size_t n = 0; n < outputs.size(); ++n) {
        const std::span<std::byte> bytes = outputs[n]->memory().bytes();
        auto* const flags = static_cast<unsigned*>(differs.data());
        const Comparison parameters{static_cast<std::byte*>(here(bytes.data())), firsts[n].data(),
                                    static_cast<int64_t>(bytes.size() / 4),
                                    launch == 0 ? nullptr : flags + launch};
        cuda::launch(cuda::load(comparison(), 0), comparison(), {132}, &parameters, here.stream());
      }
    }
  });
  int64_t different = 0;
  for (const double flag : differs.values()) different += flag != 0;
  return different;
}

}  // namespace fa::test
