// The dtype that a flag names.
#pragma once

#include <string>

#include "fa/attention.hpp"

namespace fa::cli {

/// float32, float16 or bfloat16, or short fp32, fp16, bf16. Throws UsageError.
DType parse_dtype(const std::string& name);

}  // namespace fa::cli
