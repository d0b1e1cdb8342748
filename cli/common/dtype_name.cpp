#include "common/dtype_name.hpp"

#include <fmt/format.h>

#include "common/exit.hpp"
#include "system/shown.hpp"

namespace fa::cli {

DType parse_dtype(const std::string& name) {
  if (name == "float32" || name == "fp32") return float32;
  if (name == "float16" || name == "fp16") return float16;
  if (name == "bfloat16" || name == "bf16") return bfloat16;
  throw UsageError(fmt::format("dtype: is \"{}\"; float32, float16 and bfloat16 are allowed",
                               system::shown(name)));
}

}  // namespace fa::cli
