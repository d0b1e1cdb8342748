// Names and checksums of kernels: FNV-1a of 128 bits. It guards against accidents, not against an
// attacker, who is kept out by the owner and mode of files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fa::cuda {

struct Digest {
  uint64_t high = 0;
  uint64_t low = 0;
  friend auto operator<=>(const Digest&, const Digest&) = default;
  std::string hex() const;
};

/// The digest of bytes that follow those whose digest is `before`.
Digest digest(std::string_view bytes,
              const Digest& before = {0x6c62272e07bb0142, 0x62b821756295c58d});

/// The digest of a list of texts, each with its length: "ab", "c" differs from "a", "bc".
template <typename... Text>
Digest digest_of(const Text&... texts) {
  Digest all = digest({});
  ((all = digest(std::to_string(std::string_view(texts).size()) + ":", all),
    all = digest(texts, all)),
   ...);
  return all;
}

}  // namespace fa::cuda
