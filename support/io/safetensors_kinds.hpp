// The element types of safetensors files, for reader and writer.
#pragma once

#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

#include "fa/attention.hpp"

namespace fa::io {

struct Kind {
  std::string_view name;
  int bytes;
  std::optional<DType> dtype;  ///< of those that are read
};
inline constexpr Kind kinds[] = {
    {"F32", 4, float32},      {"F16", 2, float16},      {"BF16", 2, bfloat16},
    {"I32", 4, int32},        {"I64", 8, int64},        {"F64", 8, std::nullopt},
    {"U64", 8, std::nullopt}, {"U32", 4, std::nullopt}, {"I16", 2, std::nullopt},
    {"U16", 2, std::nullopt}, {"I8", 1, std::nullopt},  {"U8", 1, std::nullopt},
    {"BOOL", 1, std::nullopt}};

/// Null for a type that is not known.
inline const Kind* kind_of(std::string_view name) {
  const auto* found = std::ranges::find(kinds, name, &Kind::name);
  return found == std::end(kinds) ? nullptr : found;
}

/// Throws FileError about one tensor of a file.
[[noreturn]] void fail_tensor(const std::string& file, const std::string& tensor,
                              const std::string& problem);

}  // namespace fa::io
