// Division by a number that is known before a launch: a multiplication in place of some 20
// instructions, each of which waits for the one before.
#pragma once

namespace fa::kernel {

/// Divides numbers from 0 to 2^31 - 1 (Granlund, Montgomery: Division by Invariant Integers using
/// Multiplication, 1994): n / d = n * ceil(2^p / d) / 2^p with p = 31 + ceil(log2 d).
struct Divisor {
  unsigned multiplier = 1u << 31;
  int shift = 31;
  int value = 1;

  constexpr Divisor() = default;
  /// 1 <= d <= 2^31 - 1.
  constexpr explicit Divisor(int d) : value(d) {
    while ((1ull << (shift - 31)) < static_cast<unsigned>(d)) ++shift;
    multiplier = static_cast<unsigned>(((1ull << shift) + static_cast<unsigned>(d) - 1) /
                                       static_cast<unsigned>(d));
  }
};

constexpr int operator/(int n, const Divisor& d) {
  return static_cast<int>(
      (static_cast<unsigned long long>(static_cast<unsigned>(n)) * d.multiplier) >> d.shift);
}

}  // namespace fa::kernel
