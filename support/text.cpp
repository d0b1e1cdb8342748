#include "support/text.hpp"

#include <fmt/format.h>

#include <array>

namespace fa::support {

std::string bytes_text(double bytes) {
  constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < units.size(); ++unit) bytes /= 1024;
  return fmt::format("{:.{}f} {}", bytes, unit > 0 && bytes < 10 ? 1 : 0, units[unit]);
}

std::string seconds_text(double seconds) {
  if (seconds >= 1) return fmt::format("{:.2f} s", seconds);
  if (seconds >= 1e-3) return fmt::format("{:.1f} ms", seconds * 1e3);
  return fmt::format("{:.0f} us", seconds * 1e6);
}

std::string length_text(int64_t length) {
  return length >= 1024 && length % 1024 == 0 ? fmt::format("{}k", length / 1024)
                                              : fmt::format("{}", length);
}

std::string count_text(int64_t count, const std::string& noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string dtype_text(DType dtype) {
  if (dtype == float32) return "float32";
  if (dtype == float16) return "float16";
  if (dtype == bfloat16) return "bfloat16";
  return fmt::format("int{}", dtype.bits);
}

}  // namespace fa::support
