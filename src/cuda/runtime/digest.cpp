#include "cuda/runtime/digest.hpp"

#include <fmt/format.h>

namespace fa::cuda {

std::string Digest::hex() const { return fmt::format("{:016x}{:016x}", high, low); }

Digest digest(std::string_view bytes, const Digest& before) {
  using uint128 = unsigned __int128;
  constexpr uint128 prime = (uint128{1} << 88) + 0x13b;
  uint128 state = (uint128{before.high} << 64) + before.low;
  for (const char byte : bytes) state = (state ^ static_cast<unsigned char>(byte)) * prime;
  return {static_cast<uint64_t>(state >> 64), static_cast<uint64_t>(state)};
}

}  // namespace fa::cuda
