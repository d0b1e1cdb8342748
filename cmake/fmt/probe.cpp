// Whether fmt.cpp has all that this {fmt}'s headers leave to it.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

int main(int count, char** words) {
  const std::vector<double> numbers(static_cast<size_t>(count), 0.1);
  fmt::print("{:>8} {:.3g} {:L} {:016x} {}\n", words[0], 1.5f, count, 1ull, fmt::join(numbers, ","));
  fmt::print(stderr, "{}\n", fmt::format("{:.3f} {}", 1e-9L, true));
}
