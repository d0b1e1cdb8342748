// Dropout's random words: Philox4x32 with 7 rounds (Salmon et al., "Parallel random numbers: as
// easy as 1, 2, 3", SC 2011).
#pragma once

namespace fa::philox {

using u32 = unsigned int;
using u64 = unsigned long long;

constexpr int rounds = 7;
constexpr u32 multiplier_0 = 0xD2511F53u;
constexpr u32 multiplier_1 = 0xCD9E8D57u;
constexpr u32 weyl_0 = 0x9E3779B9u;  // added to the key after each round
constexpr u32 weyl_1 = 0xBB67AE85u;

/// The 2x2 block {i, i ^ 8} x {j, j ^ 8} shares one counter: a thread owns these four elements in
/// the tensor cores' fragments of S as well as of S^T. Its index in one dimension:
constexpr u32 block_index(u32 i) { return (i >> 4) << 3 | (i & 7); }
/// The element's word among the counter's four outputs.
constexpr u32 word_index(u32 i, u32 j) { return 2 * (i >> 3 & 1) + (j >> 3 & 1); }

/// The parts of the counter that a row shares: (i', j', sequence_head ^ high half of offset, low
/// half).
struct Stream {
  u32 key_0, key_1;
  u32 counter_2, counter_3;
};
constexpr Stream stream(u64 seed, u64 offset, u32 sequence_head) {
  return {static_cast<u32>(seed), static_cast<u32>(seed >> 32),
          sequence_head ^ static_cast<u32>(offset >> 32), static_cast<u32>(offset)};
}

/// The key of each round.
struct RoundKeys {
  u32 key_0[rounds], key_1[rounds];
};
constexpr RoundKeys round_keys(Stream s) {
  RoundKeys keys{};
  for (int round = 0; round < rounds; ++round) {
    keys.key_0[round] = s.key_0 + static_cast<u32>(round) * weyl_0;
    keys.key_1[round] = s.key_1 + static_cast<u32>(round) * weyl_1;
  }
  return keys;
}

/// The four words of the counter (i', j') of a stream, whose keys are `keys`.
constexpr void words(u32 (&word)[4], const Stream& s, const RoundKeys& keys, u32 i, u32 j) {
  u32 c[4] = {i, j, s.counter_2, s.counter_3};
  for (int round = 0; round < rounds; ++round) {
    const u64 a = static_cast<u64>(multiplier_0) * c[0];
    const u64 b = static_cast<u64>(multiplier_1) * c[2];
    c[0] = static_cast<u32>(b >> 32) ^ c[1] ^ keys.key_0[round];
    c[1] = static_cast<u32>(b);
    c[2] = static_cast<u32>(a >> 32) ^ c[3] ^ keys.key_1[round];
    c[3] = static_cast<u32>(a);
  }
  for (int n = 0; n < 4; ++n) word[n] = c[n];
}

/// An element is kept iff its word is at least this: floor(p * 2^32), in double on the host.
inline u32 threshold(double p) { return static_cast<u32>(p * 4294967296.0); }

}  // namespace fa::philox
