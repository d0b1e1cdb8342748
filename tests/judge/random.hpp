// Draws that a seed fixes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

namespace judge {

// Standard-normal numbers to draw from: drawing is most of the work of a small problem.
inline const std::vector<double>& normal_numbers() {
  static const std::vector<double> numbers = [] {
    std::mt19937_64 engine(1);
    std::normal_distribution<double> normal;
    std::vector<double> drawn(1 << 16);
    for (double& x : drawn) x = normal(engine);
    return drawn;
  }();
  return numbers;
}

class Random {
 public:
  Random(uint64_t seed, uint64_t index)
      : state_(mixed(mixed(seed) + index)), normal_(normal_numbers()) {}

  uint64_t bits() { return mixed(state_ += 0x9e3779b97f4a7c15); }  // SplitMix64
  // From low to high, both included.
  int64_t integer(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(bits() % static_cast<uint64_t>(high - low + 1));
  }
  double unit() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  double real(double low, double high) { return low + (high - low) * unit(); }
  bool chance(double p) { return unit() < p; }
  double sign() { return (bits() >> 40 & 1) != 0 ? 1 : -1; }
  double normal() { return normal_[bits() >> 48]; }
  // Spread evenly over the logarithm.
  double magnitude(double low, double high) {
    return std::exp(real(std::log(low), std::log(high)));
  }
  int64_t size(int64_t low, int64_t high) {
    const double x = magnitude(static_cast<double>(low), static_cast<double>(high) + 1);
    return std::min(high, static_cast<int64_t>(x));
  }
  template <typename T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[bits() % values.size()];
  }

 private:
  static uint64_t mixed(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
  }

  uint64_t state_;
  const std::vector<double>& normal_;
};

}  // namespace judge
