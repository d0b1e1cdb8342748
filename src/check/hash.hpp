// A hash of bytes that tells two runs apart; it guards against accidents, not against an attacker.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace fa::check {

class Hash {
 public:
  explicit Hash(uint64_t start = 0) : value_(start) {}

  void add(std::span<const std::byte> bytes) {
    for (size_t i = 0; i < bytes.size(); i += sizeof(uint64_t)) {
      uint64_t word = 0;
      std::memcpy(&word, bytes.data() + i, std::min(sizeof(word), bytes.size() - i));
      value_ = (value_ ^ word) * 0x9e3779b97f4a7c15;
      value_ ^= value_ >> 29;
    }
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_;
};

}  // namespace fa::check
