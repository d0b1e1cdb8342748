#include "support/io/npy.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <optional>
#include <string_view>

#include "support/io/error.hpp"
#include "system/shown.hpp"

namespace fa::io {

using system::shown_beginning;
namespace {

constexpr std::string_view magic = "\x93NUMPY";

struct Descr {
  std::string_view text;
  DType dtype;
};
constexpr Descr descrs[] = {{"<f4", float32}, {"<f2", float16}, {"<i4", int32}, {"<i8", int64}};

/// Reader of the header's text, the literal of a Python dict such as
/// {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
class DictReader {
 public:
  DictReader(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  void read() {
    expect('{');
    while (!take('}')) {
      read_entry();
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (!text_.empty()) fail("has something after its closing brace");
    if (!descr_) fail("has no 'descr'");
    if (!fortran_order_) fail("has no 'fortran_order'");
    if (!shape_) fail("has no 'shape'");
  }

  const std::string& descr() const { return *descr_; }
  bool fortran_order() const { return *fortran_order_; }
  const std::vector<int64_t>& shape() const { return *shape_; }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw FileError(file_, "the npy header " + problem);
  }

  void skip_space() {
    const size_t at = text_.find_first_not_of(" \t\r\n");
    text_.remove_prefix(at == text_.npos ? text_.size() : at);
  }

  bool take(char c) {
    skip_space();
    if (text_.empty() || text_.front() != c) return false;
    text_.remove_prefix(1);
    return true;
  }

  void expect(char c) {
    if (!take(c)) fail(fmt::format("lacks a '{}' where it should have one", c));
  }

  bool take(std::string_view word) {
    skip_space();
    if (!text_.starts_with(word)) return false;
    text_.remove_prefix(word.size());
    return true;
  }

  std::string read_string() {
    const char quote = take('"') ? '"' : '\'';
    if (quote == '\'') expect('\'');
    const size_t end = text_.find(quote);
    if (end == text_.npos) fail("has a string without an end");
    std::string value(text_.substr(0, end));
    text_.remove_prefix(end + 1);
    return value;
  }

  int64_t read_extent() {
    skip_space();
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
    if (error != std::errc{} || value < 0) fail("has an extent that is not a whole number from 0");
    text_.remove_prefix(static_cast<size_t>(end - text_.data()));
    return value;
  }

  void read_shape() {
    shape_.emplace();
    expect('(');
    while (!take(')')) {
      shape_->push_back(read_extent());
      if (!take(',')) {
        expect(')');
        break;
      }
    }
  }

  void read_entry() {
    const std::string key = read_string();
    expect(':');
    if (key == "descr" && !descr_) {
      skip_space();
      if (text_.starts_with('[')) fail("describes records; a plain array is needed");
      descr_ = read_string();
    } else if (key == "fortran_order" && !fortran_order_) {
      fortran_order_ = take(std::string_view("True"));
      if (!*fortran_order_ && !take(std::string_view("False"))) {
        fail("has a 'fortran_order' that is neither True nor False");
      }
    } else if (key == "shape" && !shape_) {
      read_shape();
    } else {
      fail(fmt::format("has the unknown or repeated key '{}'", shown_beginning(key)));
    }
  }

  std::string_view text_;
  const std::string& file_;
  std::optional<std::string> descr_;
  std::optional<bool> fortran_order_;
  std::optional<std::vector<int64_t>> shape_;
};

uint64_t little_endian(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | std::to_integer<uint64_t>(bytes[i]);
  return value;
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

DType dtype_of(const std::string& descr, const std::string& file) {
  for (const Descr& known : descrs) {
    if (descr == known.text) return known.dtype;
  }
  if (descr == "<f8") {
    throw FileError(file,
                    "holds float64 ('<f8', NumPy's default); float32 and float16 are computed "
                    "with: save it with numpy.save(file, array.astype(numpy.float32))");
  }
  throw FileError(
      file, fmt::format("holds elements of type '{}'; allowed are float32 '<f4', "
                        "float16 '<f2' and, for lengths, int32 '<i4' and int64 '<i8' (bfloat16 "
                        "comes in safetensors files)",
                        shown_beginning(descr)));
}

}  // namespace

NpyHeader parse_npy(std::span<const std::byte> head, uint64_t file_size, const std::string& file) {
  if (head.size() < 8 || !text_of(head).starts_with(magic)) {
    throw FileError(file, "is not an npy file: it does not begin with \\x93NUMPY");
  }
  const int major = std::to_integer<int>(head[6]);
  if (major < 1 || major > 3) {
    throw FileError(file, fmt::format("has npy version {}; 1, 2 and 3 are known", major));
  }
  const size_t length_bytes = major == 1 ? 2 : 4;
  const size_t prefix = 8 + length_bytes;
  if (head.size() < prefix) throw FileError(file, "is cut off in its npy header");
  const uint64_t length = little_endian(head.subspan(8, length_bytes));
  if (length > npy_max_header - prefix) {
    throw FileError(file, fmt::format("claims an npy header of {} bytes; at most {} are read",
                                      length, npy_max_header - prefix));
  }
  if (head.size() < prefix + length) throw FileError(file, "is cut off in its npy header");

  DictReader dict(text_of(head.subspan(prefix, length)), file);
  dict.read();
  if (dict.fortran_order()) {
    throw FileError(file, "is in Fortran order; save it with numpy.ascontiguousarray");
  }
  NpyHeader header{dtype_of(dict.descr(), file), dict.shape(), prefix + length};
  const auto bytes = byte_size(header.dtype, header.shape);
  const uint64_t present = file_size - header.data_begin;
  if (!bytes || static_cast<uint64_t>(*bytes) != present) {
    throw FileError(
        file,
        fmt::format("has {} bytes of elements, which is not what its shape ({}) "
                    "of '{}' needs",
                    present, shown_beginning(fmt::format("{}", fmt::join(header.shape, ", "))),
                    dict.descr()));
  }
  return header;
}

Array read_npy(const std::string& path) {
  const InputFile file(path);
  const NpyHeader header = parse_npy(file.head(npy_max_header), file.size(), path);
  Array array(header.dtype, header.shape);
  file.read(header.data_begin, {array.data(), static_cast<size_t>(array.bytes())});
  return array;
}

void write_npy(OutputFile& file, const std::string& path, const Array& array) {
  std::string_view descr;
  for (const Descr& known : descrs) {
    if (known.dtype == array.dtype()) descr = known.text;
  }
  if (descr.empty()) {
    throw FileError(path, "npy files cannot hold bfloat16; write to a .safetensors file");
  }
  const char* comma = array.shape().size() == 1 ? "," : "";
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}",
                                   descr, fmt::join(array.shape(), ", "), comma);
  // Version 1: magic, version and length take 10 bytes; elements start at a multiple of 64.
  header.append(63 - (10 + header.size()) % 64, ' ');
  header.push_back('\n');
  const auto length = static_cast<unsigned>(header.size());
  std::string prefix(magic);
  for (const unsigned byte : {1u, 0u, length & 0xff, length >> 8}) {
    prefix.push_back(static_cast<char>(byte));
  }
  file.write(prefix + header);
  file.write({array.data(), static_cast<size_t>(array.bytes())});
}

}  // namespace fa::io
