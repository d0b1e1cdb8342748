#include "plan/kernel_config.hpp"

namespace fa {

std::string constants_text(std::string_view config) {
  std::string text;
  for (size_t at = config.find("constexpr "); at != config.npos;
       at = config.find("constexpr ", at + 1)) {
    const std::string_view line = config.substr(at, config.find(';', at) - at);
    const size_t equals = line.find(" = ");
    const std::string_view left = line.substr(0, equals);
    const std::string_view name = left.substr(left.rfind(' ') + 1);
    std::string_view value = line.substr(equals + 3);
    if (const size_t scope = value.rfind(':'); scope != value.npos) value.remove_prefix(scope + 1);
    if (value == "false" || value == "none") continue;
    if (!text.empty()) text += ' ';
    text += value == "true" ? std::string(name) : fmt::format("{}={}", name, value);
  }
  return text;
}

}  // namespace fa
