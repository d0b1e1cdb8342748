// The tiles to be timed: read from text, or all that can be sensible for a problem.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "plan/cuda/sm80/forward_tiles.hpp"

namespace fa::bench {

/// A number of a tile and its name in text.
struct TileField {
  const char* name;
  int ForwardTile::* number;
};
std::span<const TileField> tile_fields();

/// "warps=8,keys=64": the rest is as in a ForwardTile that nobody has set. Throws Error naming
/// --tile: no such name, or a tile that the kernel or the GPU cannot have.
ForwardTile parse_tile(const std::string& text, const Problem& problem, const GpuLimits& gpu);
std::string tile_text(const ForwardTile& tile);

/// Every tile of a few sizes whose blocks fit the GPU's shared memory, and whose O, S, P and Q its
/// registers; each for the most blocks of a multiprocessor that fit so, and for fewer with more
/// registers.
std::vector<ForwardTile> search_tiles(const Problem& problem, const GpuLimits& gpu);

}  // namespace fa::bench
