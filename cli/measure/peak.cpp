#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "measure/peak.cpp"
#include "hwy/foreach_target.h"  // must come first
// clang-format off
#include "hwy/highway.h"
// clang-format on

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "measure/peak.hpp"

HWY_BEFORE_NAMESPACE();
namespace fa::cli::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr int chains = 12;

/// `steps` multiply-adds on each chain; the result only keeps the compiler from dropping them.
HWY_ATTR float RunChains(int64_t steps, float factor, float term) {
  const hn::ScalableTag<float> d;
  const auto f = hn::Set(d, factor);
  const auto t = hn::Set(d, term);
  auto c0 = hn::Iota(d, 0);
  auto c1 = hn::Iota(d, 1);
  auto c2 = hn::Iota(d, 2);
  auto c3 = hn::Iota(d, 3);
  auto c4 = hn::Iota(d, 4);
  auto c5 = hn::Iota(d, 5);
  auto c6 = hn::Iota(d, 6);
  auto c7 = hn::Iota(d, 7);
  auto c8 = hn::Iota(d, 8);
  auto c9 = hn::Iota(d, 9);
  auto c10 = hn::Iota(d, 10);
  auto c11 = hn::Iota(d, 11);
  for (int64_t i = 0; i < steps; ++i) {
    c0 = hn::MulAdd(c0, f, t);
    c1 = hn::MulAdd(c1, f, t);
    c2 = hn::MulAdd(c2, f, t);
    c3 = hn::MulAdd(c3, f, t);
    c4 = hn::MulAdd(c4, f, t);
    c5 = hn::MulAdd(c5, f, t);
    c6 = hn::MulAdd(c6, f, t);
    c7 = hn::MulAdd(c7, f, t);
    c8 = hn::MulAdd(c8, f, t);
    c9 = hn::MulAdd(c9, f, t);
    c10 = hn::MulAdd(c10, f, t);
    c11 = hn::MulAdd(c11, f, t);
  }
  c0 = hn::Add(hn::Add(hn::Add(c0, c1), hn::Add(c2, c3)), hn::Add(hn::Add(c4, c5), c6));
  c7 = hn::Add(hn::Add(hn::Add(c7, c8), hn::Add(c9, c10)), c11);
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(c0, c7)));
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

}  // namespace fa::cli::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fa::cli {
namespace {

HWY_EXPORT(RunChains);
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

/// What one thread does. Short runs, of which the slowest are those that another process broke
/// into, and the fastest may be those whose neighbour on the same core was not at work.
double steps_per_second(double seconds) {
  constexpr int64_t steps = 100'000;  // 0.2 ms
  std::vector<double> rates;
  const auto start = Clock::now();
  while (seconds_since(start) < seconds) {
    const auto run = Clock::now();
    use(HWY_DYNAMIC_DISPATCH(RunChains)(steps, 0.999f, 0.5f));
    rates.push_back(static_cast<double>(steps) / seconds_since(run));
  }
  const auto high = rates.begin() + static_cast<int64_t>(rates.size() * 9 / 10);
  std::ranges::nth_element(rates, high);
  return *high;
}

}  // namespace

double FmaPeak::implied_ghz() const { return flops / (2e9 * per_cycle * lanes * threads); }

FmaPeak measure_fma_peak(int threads, double seconds) {
  FmaPeak peak;
  peak.threads = threads;
  peak.lanes = HWY_DYNAMIC_DISPATCH(Lanes)();
  peak.per_cycle = HWY_DYNAMIC_DISPATCH(PerCycle)();
  peak.target = hwy::TargetName(HWY_DYNAMIC_DISPATCH(Target)());
  double steps = 0;
#pragma omp parallel num_threads(threads) reduction(+ : steps)
  {
#pragma omp barrier
    steps += steps_per_second(seconds);
  }
  peak.flops = 2.0 * HWY_NAMESPACE::chains * peak.lanes * steps;
  return peak;
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

}  // namespace fa::cli
#endif
