#include "system/shown.hpp"

#include <fmt/format.h>

#include <algorithm>
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

struct Range {
  uint32_t first, last;
};

/// Control characters and those that are not seen or move others: Unicode 16's categories Cc, Cf
/// (with what lies between), Zl and Zp.
constexpr Range unseen[] = {
    {0x00, 0x1f},       {0x7f, 0x9f},       {0xad, 0xad},       {0x600, 0x605},
    {0x61c, 0x61c},     {0x6dd, 0x6dd},     {0x70f, 0x70f},     {0x890, 0x891},
    {0x8e2, 0x8e2},     {0x180e, 0x180e},   {0x200b, 0x200f},   {0x2028, 0x202e},
    {0x2060, 0x206f},   {0xfeff, 0xfeff},   {0xfff9, 0xfffb},   {0x110bd, 0x110bd},
    {0x110cd, 0x110cd}, {0x13430, 0x1343f}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a},
    {0xe0001, 0xe0001}, {0xe0020, 0xe007f}};

bool is_unseen(uint32_t code) {
  return std::ranges::any_of(
      unseen, [code](Range range) { return code >= range.first && code <= range.last; });
}

/// The escaped text, cut to at most `most` bytes.
std::string escape(std::string_view text, size_t most) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const auto [bytes, code] = first_of(text.substr(at));
    if (at + bytes > most || at == most) return result + "...";
    if (bytes == 0) {
      result += fmt::format("\\x{:02x}", static_cast<uint8_t>(text[at]));
    } else if (is_unseen(code)) {
      result += code > 0xffff ? fmt::format("\\U{:08x}", code) : fmt::format("\\u{:04x}", code);
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
