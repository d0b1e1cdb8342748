// CMake links this program with fmt.cpp, to see whether that file has all that the headers want.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

int main(int count, char** words) {
  const std::vector<double> numbers(static_cast<size_t>(count), 0.1);
  fmt::print("{:>8} {:.3g} {:L} {:016x}\n", words[0], 1.5f, count, 1ull);
  fmt::print("{}\n", fmt::join(numbers, ","));
  fmt::print(stderr, "{}\n", fmt::format("{:.3f} {}", 1e-9L, true));
}
