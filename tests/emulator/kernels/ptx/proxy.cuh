#pragma once
#include "emulator.hpp"

namespace fa::ptx {

inline void fence_proxy_async() { emulator::runtime->fence_proxy(); }

inline void fence_proxy_async_global() {}

}  // namespace fa::ptx
