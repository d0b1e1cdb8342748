// Philox4x32 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011) with 7 rounds.
#pragma once

#include <array>
#include <cstdint>

namespace fa::reference {

std::array<uint32_t, 4> philox4x32_7(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

}  // namespace fa::reference
