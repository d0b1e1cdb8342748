#include "system/shown.hpp"

#include <fmt/format.h>

#include <array>
#include <cstdint>

namespace fa::system {
namespace {

struct Character {
  size_t bytes = 0;  ///< 0: not UTF-8
  uint32_t code = 0;
};

/// The first one of a text that is not empty.
Character first_of(std::string_view text) {
  struct Form {
    uint8_t mask, mark;
    uint32_t least;
  };
  constexpr std::array<Form, 4> forms{
      {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}}};
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  for (size_t more = 0; more < forms.size(); ++more) {
    const auto [mask, mark, least] = forms[more];
    if ((byte(0) & mask) != mark) continue;
    if (text.size() <= more) return {};
    uint32_t code = byte(0) & static_cast<uint8_t>(~mask);
    for (size_t i = 1; i <= more; ++i) {
      if ((byte(i) & 0xc0) != 0x80) return {};
      code = code << 6 | (byte(i) & 0x3f);
    }
    const bool surrogate = code >= 0xd800 && code <= 0xdfff;
    return code < least || code > 0x10ffff || surrogate ? Character{} : Character{more + 1, code};
  }
  return {};
}

bool is_control(uint32_t code) {
  const auto within = [code](uint32_t first, uint32_t last) {
    return code >= first && code <= last;
  };
  return code < 0x20 || within(0x7f, 0x9f) || code == 0x061c || within(0x200e, 0x200f) ||
         within(0x2028, 0x202e) || within(0x2066, 0x2069);
}

/// Of at most `most` bytes.
std::string escape(std::string_view text, size_t most) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const auto [bytes, code] = first_of(text.substr(at));
    if (at + bytes > most || at == most) return result + "...";
    if (bytes == 0) {
      result += fmt::format("\\x{:02x}", static_cast<uint8_t>(text[at]));
    } else if (is_control(code)) {
      result += fmt::format("\\u{:04x}", code);
    } else {
      result += text.substr(at, bytes);
    }
    at += bytes == 0 ? 1 : bytes;
  }
  return result;
}

}  // namespace

std::string shown(std::string_view text) { return escape(text, text.size()); }

std::string shown_beginning(std::string_view text) { return escape(text, 64); }

}  // namespace fa::system
