// Safetensors files: https://github.com/huggingface/safetensors#format
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/io/array.hpp"
#include "support/io/file.hpp"

namespace fa::io {

/// The longest JSON header that is read.
inline constexpr uint64_t safetensors_max_header = uint64_t{16} << 20;

struct SafetensorsEntry {
  std::string dtype;  ///< as written: "F32", "BF16", ...
  std::vector<int64_t> shape;
  uint64_t begin = 0;  ///< bytes from the end of the header
  uint64_t end = 0;
};
using SafetensorsHeader = std::map<std::string, SafetensorsEntry>;

/// Reads the JSON header of a file that has `data_size` bytes after it. As the format demands, the
/// tensors must fill these bytes without holes and without overlap, and each must have the bytes
/// that its dtype and shape need. Throws FileError naming `file`.
SafetensorsHeader parse_safetensors(std::string_view json, uint64_t data_size,
                                    const std::string& file);

/// A file whose tensors are read one by one.
class Safetensors {
 public:
  explicit Safetensors(const std::string& path);
  const SafetensorsHeader& header() const { return header_; }
  /// float32, float16, bfloat16, int32 or int64. Throws FileError when there is no such tensor.
  Array read(const std::string& name) const;

 private:
  InputFile file_;
  uint64_t data_begin_ = 0;
  SafetensorsHeader header_;
};

void write_safetensors(OutputFile& file,
                       std::span<const std::pair<std::string, const Array*>> tensors);

}  // namespace fa::io
