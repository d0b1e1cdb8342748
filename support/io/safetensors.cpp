#include "support/io/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

#include "support/io/error.hpp"
#include "support/io/safetensors_kinds.hpp"
#include "system/shown.hpp"

namespace fa::io {

using system::shown_beginning;

Safetensors::Safetensors(const std::string& path) : file_(path) {
  if (file_.size() < 8) throw FileError(path, "is too short for a safetensors file");
  uint64_t length = 0;
  const auto prefix = file_.head(8);
  for (size_t i = 8; i-- > 0;) length = length << 8 | std::to_integer<uint64_t>(prefix[i]);
  if (length > std::min(file_.size() - 8, safetensors_max_header)) {
    throw FileError(path, fmt::format("is cut off or not a safetensors file: it claims a header of "
                                      "{} bytes, has {} and at most {} are read",
                                      length, file_.size() - 8, safetensors_max_header));
  }
  std::string text(length, '\0');
  file_.read(8, std::as_writable_bytes(std::span(text)));
  data_begin_ = 8 + length;
  header_ = parse_safetensors(text, file_.size() - data_begin_, path);
}

Array Safetensors::read(const std::string& name) const {
  const auto found = header_.find(name);
  if (found == header_.end()) {
    std::string names;
    for (const auto& [other, entry] : header_) {
      if (names.size() > 200) break;
      names += (names.empty() ? "" : ", ") + shown_beginning(other);
    }
    throw FileError(file_.path(),
                    fmt::format("has no tensor '{}'; it has {}", shown_beginning(name),
                                names.empty() ? "none" : names));
  }
  const SafetensorsEntry& entry = found->second;
  const Kind* kind = kind_of(entry.dtype);
  if (kind == nullptr || !kind->dtype) {
    fail_tensor(
        file_.path(), name,
        fmt::format("is of type {}; F32, F16, BF16 and, for lengths, I32 and I64 are read{}",
                    shown_beginning(entry.dtype),
                    entry.dtype == "F64" ? ": save it as float32 (numpy: array.astype("
                                           "numpy.float32), torch: tensor.float())"
                                         : ""));
  }
  Array array(*kind->dtype, entry.shape);
  file_.read(data_begin_ + entry.begin, {array.data(), static_cast<size_t>(array.bytes())});
  return array;
}

void write_safetensors(OutputFile& file,
                       std::span<const std::pair<std::string, const Array*>> tensors) {
  // Wide elements first, so that every tensor starts at a multiple of its element size.
  std::vector<std::pair<std::string, const Array*>> order;
  for (const int bits : {64, 32, 16}) {
    std::ranges::copy_if(tensors, std::back_inserter(order),
                         [&](const auto& item) { return item.second->dtype().bits == bits; });
  }
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  int64_t end = 0;
  for (const auto& [name, array] : order) {
    const auto* kind = std::ranges::find(kinds, std::optional(array->dtype()), &Kind::dtype);
    header[name] = {{"dtype", kind->name},
                    {"shape", array->shape()},
                    {"data_offsets", {end, end + array->bytes()}}};
    end += array->bytes();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string prefix;
  for (int shift = 0; shift < 64; shift += 8) {
    prefix.push_back(static_cast<char>(text.size() >> shift & 0xff));
  }
  file.write(prefix + text);
  for (const auto& [name, array] : order) {
    file.write({array->data(), static_cast<size_t>(array->bytes())});
  }
}

}  // namespace fa::io
