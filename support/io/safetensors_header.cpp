// The JSON header, read as it is parsed: in time linear in its length, and with every name that is
// given twice seen.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "support/io/error.hpp"
#include "support/io/safetensors.hpp"
#include "support/io/safetensors_kinds.hpp"
#include "system/shown.hpp"

namespace fa::io {

using system::shown_beginning;
namespace {

using nlohmann::json;

constexpr std::string_view metadata_name = "__metadata__";
constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";

class HeaderReader final : public nlohmann::json_sax<json> {
 public:
  HeaderReader(uint64_t data_size, const std::string& file) : data_size_(data_size), file_(file) {}

  SafetensorsHeader header;

  bool null() override { return value({.is_null = true}); }
  bool boolean(bool) override { return value({}); }
  bool number_integer(number_integer_t) override { return value({}); }  // negative
  bool number_float(number_float_t, const string_t&) override { return value({}); }
  bool number_unsigned(number_unsigned_t number) override { return value({.number = number}); }
  bool string(string_t& text) override { return value({.text = &text}); }
  bool binary(binary_t&) override { return value({}); }

  bool key(string_t& name) override {
    if (where_ == Where::tensors) {
      if (name == metadata_name && metadata_seen_) {
        throw FileError(file_, "the safetensors header has its __metadata__ twice");
      }
      if (header.contains(name)) fail_tensor(file_, name, "is described twice");
      name_ = name;
      fields_ = {};
    } else if (where_ == Where::tensor) {
      start_field(name);
    }
    return true;
  }

  bool start_object(size_t) override {
    switch (where_) {
      case Where::start:
        where_ = Where::tensors;
        return true;
      case Where::tensors:
        if (is_metadata()) {
          metadata_seen_ = true;
          where_ = Where::metadata;
        } else {
          where_ = Where::tensor;
        }
        return true;
      default:
        return start_nested();
    }
  }

  bool start_array(size_t) override {
    std::vector<int64_t>* const list = where_ == Where::tensor ? list_of_field() : nullptr;
    if (list == nullptr) return start_nested();
    list_ = list;
    where_ = Where::list;
    return true;
  }

  bool end_object() override { return end(); }
  bool end_array() override { return end(); }

  bool parse_error(size_t, const std::string&, const json::exception& error) override {
    throw FileError(file_, fmt::format("the safetensors header is not JSON: {}",
                                       shown_beginning(error.what())));
  }

 private:
  enum class Where { start, tensors, metadata, tensor, list, skipped };
  struct Value {
    bool is_null = false;
    std::optional<uint64_t> number{};
    const std::string* text = nullptr;
  };
  struct Fields {
    std::optional<std::string> dtype;
    std::optional<std::vector<int64_t>> shape, offsets;
  };

  bool is_metadata() const { return name_ == metadata_name; }

  [[noreturn]] void fail(const std::string& problem) const { fail_tensor(file_, name_, problem); }

  /// Refuses a value that its name or field cannot have, by an error that tells what it must be.
  [[noreturn]] void refuse() const {
    if (where_ == Where::start)
      throw FileError(file_, "the safetensors header is not a JSON object");
    if (where_ == Where::metadata || is_metadata()) {
      throw FileError(file_, "the safetensors header's __metadata__ is not a map of strings");
    }
    if (where_ == Where::tensors) fail("is not described by an object");
    if (where_ == Where::list) {
      fail(fmt::format("has a '{}' that is not a whole number from 0", field_));
    }
    if (field_ == "dtype") fail("has a 'dtype' that is not a string");
    if (field_ == "shape") fail("has a 'shape' that is not an array");
    fail("has 'data_offsets' that are not an array of two");
  }

  void start_field(const std::string& name) {
    field_ = name;
    const bool repeated = (name == "dtype" && fields_.dtype) ||
                          (name == "shape" && fields_.shape) ||
                          (name == "data_offsets" && fields_.offsets);
    if (repeated) fail(fmt::format("has its '{}' twice", name));
  }

  bool is_known_field() const {
    return field_ == "dtype" || field_ == "shape" || field_ == "data_offsets";
  }

  std::vector<int64_t>* list_of_field() {
    if (field_ == "shape") return &fields_.shape.emplace();
    if (field_ == "data_offsets") return &fields_.offsets.emplace();
    return nullptr;
  }

  /// A value that is neither object nor array.
  bool value(const Value& value) {
    switch (where_) {
      case Where::tensors:
        if (!is_metadata() || !value.is_null) refuse();
        metadata_seen_ = true;
        return true;
      case Where::metadata:
        if (value.text == nullptr) refuse();
        return true;
      case Where::tensor:
        if (field_ == "dtype" && value.text != nullptr) {
          fields_.dtype = *value.text;
        } else if (is_known_field()) {
          refuse();
        }
        return true;
      case Where::list:
        if (!value.number || *value.number > INT64_MAX) refuse();
        list_->push_back(static_cast<int64_t>(*value.number));
        return true;
      case Where::start:
        refuse();
      case Where::skipped:
        break;
    }
    return true;
  }

  /// An object or array where only that of an unknown field may be, which is skipped.
  bool start_nested() {
    if (where_ == Where::skipped) {
      ++depth_;
      return true;
    }
    if (where_ != Where::tensor || is_known_field()) refuse();
    where_ = Where::skipped;
    depth_ = 1;
    return true;
  }

  bool end() {
    switch (where_) {
      case Where::skipped:
        if (--depth_ == 0) where_ = Where::tensor;
        return true;
      case Where::list:
        where_ = Where::tensor;
        if (field_ == "data_offsets" && list_->size() != 2) refuse();
        return true;
      case Where::tensor:
        header.emplace(name_, entry());
        [[fallthrough]];
      case Where::metadata:
        where_ = Where::tensors;
        return true;
      default:
        return true;
    }
  }

  /// The tensor whose description ends.
  SafetensorsEntry entry() {
    if (!fields_.dtype) fail("has no 'dtype'");
    if (!fields_.shape) fail("has no 'shape'");
    if (!fields_.offsets) fail("has no 'data_offsets'");
    SafetensorsEntry entry;
    entry.dtype = *fields_.dtype;
    entry.shape = std::move(*fields_.shape);
    entry.begin = static_cast<uint64_t>(fields_.offsets->at(0));
    entry.end = static_cast<uint64_t>(fields_.offsets->at(1));
    if (entry.begin > entry.end || entry.end > data_size_) {
      fail(fmt::format("lies at bytes {} to {} of the {} bytes that follow the header", entry.begin,
                       entry.end, data_size_));
    }
    if (const Kind* kind = kind_of(entry.dtype)) {
      const DType element{0, static_cast<uint8_t>(8 * kind->bytes), 1};
      const auto bytes = byte_size(element, entry.shape);
      if (!bytes || static_cast<uint64_t>(*bytes) != entry.end - entry.begin) {
        fail(fmt::format(
            "has {} bytes, which is not what its shape [{}] of {} needs", entry.end - entry.begin,
            shown_beginning(fmt::format("{}", fmt::join(entry.shape, ", "))), entry.dtype));
      }
    }
    return entry;
  }

  uint64_t data_size_;
  const std::string& file_;
  Where where_ = Where::start;
  std::string name_;   ///< of the tensor that is read
  std::string field_;  ///< of its description
  Fields fields_;
  std::vector<int64_t>* list_ = nullptr;
  size_t depth_ = 0;  ///< within a field that is skipped
  bool metadata_seen_ = false;
};

/// The tensors must lie one after the other, from the first byte to the last.
void check_layout(const SafetensorsHeader& header, uint64_t data_size, const std::string& file) {
  std::vector<std::pair<const std::string*, const SafetensorsEntry*>> order;
  for (const auto& [name, entry] : header) order.emplace_back(&name, &entry);
  std::ranges::sort(
      order, {}, [](const auto& item) { return std::pair(item.second->begin, item.second->end); });
  uint64_t end = 0;
  for (const auto& [name, entry] : order) {
    if (entry->begin != end) {
      fail_tensor(
          file, *name,
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

void fail_tensor(const std::string& file, const std::string& tensor, const std::string& problem) {
  throw FileError(file, fmt::format("tensor '{}' {}", shown_beginning(tensor), problem));
}

SafetensorsHeader parse_safetensors(std::string_view text, uint64_t data_size,
                                    const std::string& file) {
  if (text.starts_with(byte_order_mark)) {  // which the parser would skip
    throw FileError(file, "the safetensors header is not JSON: it begins with a byte order mark");
  }
  HeaderReader reader(data_size, file);
  json::sax_parse(text, &reader);
  check_layout(reader.header, data_size, file);
  return std::move(reader.header);
}

}  // namespace fa::io
