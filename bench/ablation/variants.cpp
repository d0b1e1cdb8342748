#include "ablation/variants.hpp"

#include <algorithm>
#include <utility>

namespace fa::bench {

namespace {

/// Each warp has all rows of its block, so that O, a quarter or an eighth of the keys' S, and some
/// of Q fill its registers as they do with rows split.
std::vector<ForwardTile> tiles_that_split_keys(const Problem& p) {
  if (p.head_dim <= 64) {
    return {{.keys = 64, .query_slices = 4, .min_blocks = 3, .warps_split_keys = true},
            {.keys = 128, .query_slices = 4, .min_blocks = 2, .warps_split_keys = true}};
  }
  return {{.keys = 64, .query_slices = 2, .min_blocks = 2, .warps_split_keys = true},
          {.warps = 8, .keys = 128, .query_slices = 2, .warps_split_keys = true}};
}

bool fits(const ForwardTile& tile, const Problem& p, const GpuLimits& gpu) {
  const int bytes = shared_bytes(tile, p.head_dim, p.head_dim_v);
  return bytes <= gpu.shared_per_block && tile.min_blocks * (bytes + 1024) <= gpu.shared_per_sm;
}

}  // namespace

std::vector<Variant> variants(const Problem& problem, const GpuLimits& gpu) {
  const ForwardTile best = forward_tile(problem, gpu);
  std::vector<Variant> all;
  const auto add = [&](std::string name, std::string meaning, ForwardTile tile) {
    tile.query_slices = std::min<int>(tile.query_slices, (problem.head_dim + 15) / 16);
    while (tile.min_blocks > 1 && !fits(tile, problem, gpu)) --tile.min_blocks;
    if (!fits(tile, problem, gpu)) return;
    all.push_back(
        {std::move(name), std::move(meaning), {.tile = tile, .splits = 1, .section = {}}});
  };
  add("normal", "as planned", best);
  ForwardTile tile = best;
  tile.stale_maximum = false;
  add("exact maximum", "O rescaled whenever the maximum grows, as in Algorithm 1", tile);
  tile.normalize_steps = true;
  add("3.1 off", "O divided by the sum at every step, with the exact maximum", tile);
  tile = best;
  tile.serial_rows = true;
  add("3.2 off", "a block for each head, which walks over all rows", tile);
  for (const ForwardTile& split : tiles_that_split_keys(problem)) {
    add("3.3 off", "warps split the keys, not the rows", split);
  }
  return all;
}

}  // namespace fa::bench
