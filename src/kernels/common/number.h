// The number formats that a kernel's config names.
#pragma once

namespace fa::kernel {

enum class Number : int { float16, bfloat16, float32, none };

}  // namespace fa::kernel
