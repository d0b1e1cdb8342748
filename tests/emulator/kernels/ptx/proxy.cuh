#pragma once
#include "emulator.hpp"

namespace fa::ptx {

inline void fence_proxy_async() { emulator::runtime->fence_proxy(); }

}  // namespace fa::ptx
