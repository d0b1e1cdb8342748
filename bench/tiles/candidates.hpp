// The tiles to be timed: read from text, or all that can be sensible for a problem. They are of the
// family that serves the problem.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "plan/cuda/forward.hpp"

namespace fa::bench {

/// The plan's own.
FamilyTile planned_tile(const Problem& problem, const GpuLimits& gpu);

/// "warps=8,keys=64": the rest is as in a tile that nobody has set. Throws Error naming --tile: no
/// such name, or a tile that the kernel or the GPU cannot have.
FamilyTile parse_tile(const std::string& text, const Problem& problem, const GpuLimits& gpu);
std::string tile_text(const FamilyTile& tile);
/// Its numbers, by their names in text.
std::vector<std::pair<std::string, int>> tile_numbers(const FamilyTile& tile);

/// Every tile of a few sizes whose blocks fit the GPU's shared memory, and whose O, S and P its
/// registers.
std::vector<FamilyTile> search_tiles(const Problem& problem, const GpuLimits& gpu);

}  // namespace fa::bench
