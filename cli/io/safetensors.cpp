#include "io/safetensors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "io/error.hpp"

namespace fa::io {
namespace {

using nlohmann::json;

struct Kind {
  std::string_view name;
  int bytes;
  std::optional<DType> dtype;  ///< of those that are read
};
constexpr Kind kinds[] = {
    {"F32", 4, float32},      {"F16", 2, float16},      {"BF16", 2, bfloat16},
    {"I32", 4, int32},        {"I64", 8, int64},        {"F64", 8, std::nullopt},
    {"U64", 8, std::nullopt}, {"U32", 4, std::nullopt}, {"I16", 2, std::nullopt},
    {"U16", 2, std::nullopt}, {"I8", 1, std::nullopt},  {"U8", 1, std::nullopt},
    {"BOOL", 1, std::nullopt}};

const Kind* kind_of(std::string_view name) {
  const auto* found = std::ranges::find(kinds, name, &Kind::name);
  return found == std::end(kinds) ? nullptr : found;
}

/// What an error message shows of text from the file.
std::string shown(std::string_view text) {
  constexpr size_t most = 64;
  return text.size() <= most ? std::string(text) : std::string(text.substr(0, most)) + "...";
}

[[noreturn]] void fail(const std::string& file, const std::string& tensor,
                       const std::string& problem) {
  throw FileError(file, fmt::format("tensor '{}' {}", shown(tensor), problem));
}

json parse_json(std::string_view text, const std::string& file) {
  std::set<std::string> names;
  const auto refuse_repeated = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::key && depth == 1) {
      const auto name = parsed.get<std::string>();
      if (!names.insert(name).second) fail(file, name, "is described twice");
    }
    return true;
  };
  try {
    return json::parse(text, refuse_repeated);
  } catch (const json::exception& error) {
    throw FileError(file,
                    fmt::format("the safetensors header is not JSON: {}", shown(error.what())));
  }
}

uint64_t whole_number(const json& value, const std::string& file, const std::string& tensor,
                      const char* what) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX) {
    fail(file, tensor, fmt::format("has a '{}' that is not a whole number from 0", what));
  }
  return value.get<uint64_t>();
}

const json& member(const json& object, const char* key, const std::string& file,
                   const std::string& tensor) {
  const auto found = object.find(key);
  if (found == object.end()) fail(file, tensor, fmt::format("has no '{}'", key));
  return *found;
}

SafetensorsEntry parse_entry(const json& object, uint64_t data_size, const std::string& file,
                             const std::string& name) {
  if (!object.is_object()) fail(file, name, "is not described by an object");
  const json& dtype = member(object, "dtype", file, name);
  const json& shape = member(object, "shape", file, name);
  const json& offsets = member(object, "data_offsets", file, name);
  if (!dtype.is_string()) fail(file, name, "has a 'dtype' that is not a string");
  if (!shape.is_array()) fail(file, name, "has a 'shape' that is not an array");
  if (!offsets.is_array() || offsets.size() != 2) {
    fail(file, name, "has 'data_offsets' that are not an array of two");
  }
  SafetensorsEntry entry;
  entry.dtype = dtype.get<std::string>();
  for (const json& extent : shape) {
    entry.shape.push_back(static_cast<int64_t>(whole_number(extent, file, name, "shape")));
  }
  entry.begin = whole_number(offsets[0], file, name, "data_offsets");
  entry.end = whole_number(offsets[1], file, name, "data_offsets");
  if (entry.begin > entry.end || entry.end > data_size) {
    fail(file, name,
         fmt::format("lies at bytes {} to {} of the {} bytes that follow the header", entry.begin,
                     entry.end, data_size));
  }
  if (const Kind* kind = kind_of(entry.dtype)) {
    const DType element{0, static_cast<uint8_t>(8 * kind->bytes), 1};
    const auto bytes = byte_size(element, entry.shape);
    if (!bytes || static_cast<uint64_t>(*bytes) != entry.end - entry.begin) {
      fail(file, name,
           fmt::format("has {} bytes, which is not what its shape [{}] of {} needs",
                       entry.end - entry.begin,
                       shown(fmt::format("{}", fmt::join(entry.shape, ", "))), entry.dtype));
    }
  }
  return entry;
}

/// The tensors must lie one after the other, from the first byte to the last.
void check_layout(const SafetensorsHeader& header, uint64_t data_size, const std::string& file) {
  std::vector<std::pair<const std::string*, const SafetensorsEntry*>> order;
  for (const auto& [name, entry] : header) order.emplace_back(&name, &entry);
  std::ranges::sort(
      order, {}, [](const auto& item) { return std::pair(item.second->begin, item.second->end); });
  uint64_t end = 0;
  for (const auto& [name, entry] : order) {
    if (entry->begin != end) {
      fail(file, *name,
           fmt::format("starts at byte {} where the one before it ends at {}", entry->begin, end));
    }
    end = entry->end;
  }
  if (end != data_size) {
    throw FileError(
        file, fmt::format("has {} bytes after its header, its tensors need {}", data_size, end));
  }
}

}  // namespace

SafetensorsHeader parse_safetensors(std::string_view text, uint64_t data_size,
                                    const std::string& file) {
  const json parsed = parse_json(text, file);
  if (!parsed.is_object()) throw FileError(file, "the safetensors header is not a JSON object");
  SafetensorsHeader header;
  for (const auto& [name, object] : parsed.items()) {
    if (name == "__metadata__") continue;
    header.emplace(name, parse_entry(object, data_size, file, name));
  }
  check_layout(header, data_size, file);
  return header;
}

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
      names += (names.empty() ? "" : ", ") + shown(other);
    }
    throw FileError(file_.path(), fmt::format("has no tensor '{}'; it has {}", shown(name),
                                              names.empty() ? "none" : names));
  }
  const SafetensorsEntry& entry = found->second;
  const Kind* kind = kind_of(entry.dtype);
  if (kind == nullptr || !kind->dtype) {
    fail(file_.path(), name,
         fmt::format("is of type {}; F32, F16, BF16 and, for lengths, I32 and I64 are read{}",
                     shown(entry.dtype),
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
