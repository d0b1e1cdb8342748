// NumPy's .npy files: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fa/attention.hpp"
#include "support/io/array.hpp"
#include "support/io/file.hpp"

namespace fa::io {

/// The longest header that is read; numpy's own limit is 10,000 bytes.
inline constexpr uint64_t npy_max_header = 65536;

struct NpyHeader {
  DType dtype{};
  std::vector<int64_t> shape;
  uint64_t data_begin = 0;  ///< where the elements start in the file
};

/// Reads the header from the file's first bytes (at least npy_max_header of them, or all) and
/// checks that the elements fill the rest of a file of `file_size` bytes. Versions 1, 2 and 3,
/// C order, little endian, float32, float16, int32 and int64. Throws FileError naming `file`.
NpyHeader parse_npy(std::span<const std::byte> head, uint64_t file_size, const std::string& file);

Array read_npy(const std::string& path);

/// Throws FileError, also for bfloat16, which the format does not know.
void write_npy(OutputFile& file, const std::string& path, const Array& array);

}  // namespace fa::io
