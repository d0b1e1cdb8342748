// How many columns the tensor cores work on, on host and device.
#pragma once

namespace fa::kernel {

/// The next multiple of 16, what one product sums over.
constexpr int pad16(long long n) { return static_cast<int>((n + 15) / 16 * 16); }

}  // namespace fa::kernel
