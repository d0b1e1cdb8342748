#include "dropout.hpp"

#include <algorithm>
#include <iterator>

namespace judge {

uint32_t dropout_word(uint64_t seed, uint64_t offset, uint64_t sequence_and_head, uint64_t i,
                      uint64_t j) {
  const auto without_bit_3 = [](uint64_t n) {
    return static_cast<uint32_t>((n >> 4) << 3 | (n & 7));
  };
  auto key0 = static_cast<uint32_t>(seed);
  auto key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c[4] = {without_bit_3(i), without_bit_3(j),
                   static_cast<uint32_t>(sequence_and_head ^ offset >> 32),
                   static_cast<uint32_t>(offset)};
  for (int round = 0; round < 7; ++round) {  // Philox4x32
    const uint64_t a = uint64_t{0xD2511F53} * c[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * c[2];
    const uint32_t next[4] = {
        static_cast<uint32_t>(b >> 32) ^ c[1] ^ key0, static_cast<uint32_t>(b),
        static_cast<uint32_t>(a >> 32) ^ c[3] ^ key1, static_cast<uint32_t>(a)};
    std::copy(std::begin(next), std::end(next), std::begin(c));
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return c[2 * (i >> 3 & 1) + (j >> 3 & 1)];
}

}  // namespace judge
