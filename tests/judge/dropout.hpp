// Which weights docs/numerics.md's dropout keeps.
#pragma once

#include <cstdint>

namespace judge {

// The word of query row i, key j.
uint32_t dropout_word(uint64_t seed, uint64_t offset, uint64_t sequence_and_head, uint64_t i,
                      uint64_t j);

}  // namespace judge
