// Random numbers that are the same on every machine and compiler.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>

namespace fa::check {

/// SplitMix64 (Steele, Lea, Flood, Fast splittable pseudorandom number generators, 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  Random(uint64_t seed, uint64_t stream) : state_(Random(seed).next() ^ Random(~stream).next()) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  /// 0 .. n - 1.
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  /// [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  bool chance(double p) { return uniform() < p; }
  template <typename T>
  T pick(std::initializer_list<T> from) {
    return from.begin()[below(static_cast<int64_t>(from.size()))];
  }
  /// Standard normal (Box and Muller).
  float normal() {
    if (has_second_) {
      has_second_ = false;
      return second_;
    }
    const uint64_t bits = next();
    const float u = (static_cast<float>(bits >> 40) + 1) * 0x1p-24f;  // (0, 1]
    const float angle = static_cast<float>(bits & 0xffffff) * 0x1p-24f * 6.2831853f;
    const float radius = std::sqrt(-2 * std::log(u));
    second_ = radius * std::sin(angle);
    has_second_ = true;
    return radius * std::cos(angle);
  }

 private:
  uint64_t state_;
  float second_ = 0;
  bool has_second_ = false;
};

}  // namespace fa::check
