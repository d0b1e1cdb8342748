#include "reference/philox.hpp"

#include <cmath>

#include "reference/reference.hpp"

namespace fa::reference {

std::array<uint32_t, 4> philox4x32_7(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 7; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key = {key[0] + 0x9E3779B9, key[1] + 0xBB67AE85};
  }
  return counter;
}

bool keeps(double p, uint64_t seed, uint64_t offset, int64_t sequence, int64_t head,
           int64_t heads_q, int64_t i, int64_t j) {
  const auto without_bit_3 = [](int64_t x) { return static_cast<uint32_t>(x / 16 * 8 + x % 8); };
  const auto bit_3 = [](int64_t x) { return x / 8 % 2; };
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };

  const auto words = philox4x32_7(
      {without_bit_3(i), without_bit_3(j),
       low(static_cast<uint64_t>(sequence * heads_q + head)) ^ high(offset), low(offset)},
      {low(seed), high(seed)});
  return words[2 * bit_3(i) + bit_3(j)] >= std::floor(p * 0x1p32);
}

}  // namespace fa::reference
