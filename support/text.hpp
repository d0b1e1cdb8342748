// Numbers and dtypes as people read them.
#pragma once

#include <cstdint>
#include <string>

#include "fa/attention.hpp"

namespace fa::support {

std::string bytes_text(double bytes);      ///< "1.5 GiB", "320 KiB"
std::string seconds_text(double seconds);  ///< "2.1 s", "14.3 ms", "80 us"
std::string length_text(int64_t length);   ///< "512", "4k", "16k"
/// "1 problem", "2 problems"
std::string count_text(int64_t count, const std::string& noun);

std::string dtype_text(DType dtype);  ///< "float32"

}  // namespace fa::support
