#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "support/measure/peak.cpp"
#include "hwy/foreach_target.h"  // must come first
// clang-format off
#include "hwy/highway.h"
// clang-format on

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string_view>
#include <vector>

#include "support/measure/peak.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::support::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr int chains = 12;

/// Runs `steps` multiply-adds on each chain. The result only keeps the compiler from dropping them.
template <class MultiplyAdd>
HWY_INLINE float run_chains(int64_t steps, const MultiplyAdd& multiply_add) {
  const hn::ScalableTag<float> d;
  hn::Vec<hn::ScalableTag<float>> c[chains];
#pragma GCC unroll 12
  for (int i = 0; i < chains; ++i) c[i] = hn::Iota(d, static_cast<float>(i));
  for (int64_t n = 0; n < steps; ++n) {
#pragma GCC unroll 12
    for (auto& chain : c) chain = multiply_add(chain);
  }
  auto sum = c[0];
#pragma GCC unroll 12
  for (int i = 1; i < chains; ++i) sum = hn::Add(sum, c[i]);
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

HWY_ATTR float RunChains(int64_t steps, float factor, float term) {
  const hn::ScalableTag<float> d;
  const auto f = hn::Set(d, factor);
  const auto t = hn::Set(d, term);
  return run_chains(steps, [&](auto c) HWY_ATTR { return hn::MulAdd(c, f, t); });
}

/// RunChains for pairs of bfloat16: a lane does two multiply-adds.
HWY_ATTR float RunPairChains([[maybe_unused]] int64_t steps, [[maybe_unused]] float factor,
                             [[maybe_unused]] float term) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  const hn::ScalableTag<float> d;
  const auto f = hn::Set(d, factor);
  const auto t = hn::Set(d, term);
  return run_chains(steps, [&](auto c) HWY_ATTR {
    asm("vdpbf16ps %2, %1, %0" : "+v"(c.raw) : "v"(f.raw), "v"(t.raw));
    return c;
  });
#else
  return 0;
#endif
}

/// AMX multiplies a tile of 16 x 32 numbers by one of 32 x 16. Four sums keep its unit busy.
constexpr int tile_chains = 4;
constexpr double tile_flops = 2.0 * 16 * 16 * 32;

HWY_ATTR float RunTileChains([[maybe_unused]] int64_t steps, float /*factor*/, float /*term*/) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  struct alignas(64) Shapes {  // as ldtilecfg takes them
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  const Shapes shapes;
  asm volatile(  // tiles are named in words: the assembler of g++ 12 knows them, its vectors do not
      "ldtilecfg %0\n\ttilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\t"
      "tilezero %%tmm3\n\ttilezero %%tmm4\n\ttilezero %%tmm5\n\ttilezero %%tmm6\n\ttilezero %%tmm7"
      :
      : "m"(shapes));
  for (int64_t n = 0; n < steps; ++n) {
    asm volatile(
        "tdpbf16ps %tmm6, %tmm4, %tmm0\n\ttdpbf16ps %tmm7, %tmm4, %tmm1\n\t"
        "tdpbf16ps %tmm6, %tmm5, %tmm2\n\ttdpbf16ps %tmm7, %tmm5, %tmm3");
  }
  asm volatile("tilerelease");
#endif
  return 0;
}

int Lanes() { return static_cast<int>(hn::Lanes(hn::ScalableTag<float>())); }

/// SSE4 has no fused multiply-add: a product and a sum take both units.
int PerCycle() { return HWY_TARGET < HWY_SSE4 ? 2 : 1; }

int64_t Target() { return HWY_TARGET; }

/// Reads every byte of a whole number of cache lines.
HWY_ATTR uint64_t ReadAll(const uint64_t* HWY_RESTRICT words, size_t count) {
  const hn::ScalableTag<uint64_t> d;
  const size_t lanes = hn::Lanes(d);
  auto a = hn::Zero(d);
  auto b = hn::Zero(d);
  auto c = hn::Zero(d);
  auto e = hn::Zero(d);
  for (size_t i = 0; i + 4 * lanes <= count; i += 4 * lanes) {
    a = hn::Xor(a, hn::LoadU(d, words + i));
    b = hn::Xor(b, hn::LoadU(d, words + i + lanes));
    c = hn::Xor(c, hn::LoadU(d, words + i + 2 * lanes));
    e = hn::Xor(e, hn::LoadU(d, words + i + 3 * lanes));
  }
  HWY_ALIGN uint64_t sums[HWY_MAX_BYTES / sizeof(uint64_t)];
  hn::Store(hn::Xor(hn::Xor(a, b), hn::Xor(c, e)), d, sums);
  uint64_t sum = 0;
  for (size_t i = 0; i < lanes; ++i) sum ^= sums[i];
  return sum;
}

}  // namespace fa::support::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fa::support {
namespace {

HWY_EXPORT(RunChains);
HWY_EXPORT(RunPairChains);
HWY_EXPORT(RunTileChains);
HWY_EXPORT(Lanes);
HWY_EXPORT(PerCycle);
HWY_EXPORT(Target);
HWY_EXPORT(ReadAll);

using Clock = std::chrono::steady_clock;

/// Keeps a result from being optimized away.
template <typename T>
void use(T value) {
  asm volatile("" : : "m"(value));
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The rate of one thread: the 90th percentile of short runs. The slowest runs were interrupted by
/// another process; the fastest may have had a core to themselves while the thread beside them
/// idled.
double steps_per_second(double seconds, Arithmetic arithmetic) {
  constexpr int64_t steps = 100'000;  // 0.2 ms, in tiles 2 ms
  const auto run_steps = [&] {
    if (arithmetic == Arithmetic::pairs) {
      return HWY_DYNAMIC_DISPATCH(RunPairChains)(steps, 0.999f, 0.5f);
    }
    if (arithmetic == Arithmetic::tiles) {
      return HWY_DYNAMIC_DISPATCH(RunTileChains)(steps, 0, 0);
    }
    return HWY_DYNAMIC_DISPATCH(RunChains)(steps, 0.999f, 0.5f);
  };
  std::vector<double> rates;
  const auto start = Clock::now();
  while (seconds_since(start) < seconds) {
    const auto run = Clock::now();
    use(run_steps());
    rates.push_back(static_cast<double>(steps) / seconds_since(run));
  }
  const auto high = rates.begin() + static_cast<int64_t>(rates.size() * 9 / 10);
  std::ranges::nth_element(rates, high);
  return *high;
}

/// Steps of all threads.
double all_steps_per_second(int threads, double seconds, Arithmetic arithmetic) {
  double steps = 0;
#pragma omp parallel num_threads(threads) reduction(+ : steps)
  {
#pragma omp barrier
    steps += steps_per_second(seconds, arithmetic);
  }
  return steps;
}

}  // namespace

double FmaPeak::implied_ghz() const { return flops / (2e9 * per_cycle * lanes * threads); }

FmaPeak measure_fma_peak(int threads, double seconds) {
  FmaPeak peak;
  peak.threads = threads;
  peak.lanes = HWY_DYNAMIC_DISPATCH(Lanes)();
  peak.per_cycle = HWY_DYNAMIC_DISPATCH(PerCycle)();
  peak.target = hwy::TargetName(HWY_DYNAMIC_DISPATCH(Target)());
  peak.flops = measure_peak(Arithmetic::widened, threads, seconds);
  return peak;
}

Arithmetic arithmetic_of(DType dtype) {
  const std::string_view target = cpu_target();
  if (dtype == bfloat16 && target.ends_with("_bf16")) return Arithmetic::pairs;
  if (dtype == bfloat16 && target.ends_with("_amx")) return Arithmetic::tiles;
  return Arithmetic::widened;
}

const char* to_text(Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::pairs) return "multiply-adds of bfloat16 pairs";
  if (arithmetic == Arithmetic::tiles) return "multiply-adds of bfloat16 in AMX's tiles";
  return "float32 multiply-adds";
}

double measure_peak(Arithmetic arithmetic, int threads, double seconds) {
  const double steps = all_steps_per_second(threads, seconds, arithmetic);
  if (arithmetic == Arithmetic::tiles) {
    return HWY_NAMESPACE::tile_chains * HWY_NAMESPACE::tile_flops * steps;
  }
  const double of_a_lane = arithmetic == Arithmetic::pairs ? 4 : 2;
  return of_a_lane * HWY_NAMESPACE::chains * HWY_DYNAMIC_DISPATCH(Lanes)() * steps;
}

double measure_read_bandwidth(std::span<const std::byte> buffer, int threads) {
  constexpr size_t piece = 4096;
  const size_t each = buffer.size() / static_cast<size_t>(threads) / piece * piece;
  const auto start = Clock::now();
#pragma omp parallel num_threads(threads)
  {
    const auto thread = static_cast<size_t>(omp_get_thread_num());
    const auto* words = reinterpret_cast<const uint64_t*>(buffer.data() + thread * each);
    use(HWY_DYNAMIC_DISPATCH(ReadAll)(words, each / sizeof(uint64_t)));
  }
  return static_cast<double>(each) * threads / seconds_since(start);
}

}  // namespace fa::support
#endif
