// The constants that device code is compiled with, as text.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "problem/problem.hpp"

namespace fa {

class KernelConfig {
 public:
  KernelConfig& number(std::string_view name, int64_t value) {
    lines_ += fmt::format("constexpr int {} = {};\n", name, value);
    return *this;
  }
  KernelConfig& flag(std::string_view name, bool value) {
    lines_ += fmt::format("constexpr bool {} = {};\n", name, value);
    return *this;
  }
  /// A number format; none where the tensor is not given.
  KernelConfig& format(std::string_view name, bool given, DType dtype) {
    const char* format = !given              ? "none"
                         : dtype == float32  ? "float32"
                         : dtype == bfloat16 ? "bfloat16"
                                             : "float16";
    lines_ += fmt::format("constexpr kernel::Number {} = kernel::Number::{};\n", name, format);
    return *this;
  }
  std::string text() const {
    return "#include \"common/number.h\"\nnamespace fa::config {\n" + lines_ + "}\n";
  }

 private:
  std::string lines_;
};

/// A config's constants in one line ("element=bfloat16 head_dim=128 lse"), without what is off.
std::string constants_text(std::string_view config);

}  // namespace fa
