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

}  // namespace

std::vector<Variant> variants(const Problem& problem, const GpuLimits& gpu) {
  const ForwardTile best = forward_tile(problem, gpu);
  std::vector<Variant> all;
  const auto add = [&](std::string name, std::string meaning, ForwardTile tile) {
    tile.query_slices = std::min<int>(tile.query_slices, (problem.head_dim + 15) / 16);
    const auto too_large = [&] { return !fits(tile, problem.head_dim, problem.head_dim_v, gpu); };
    while (tile.min_blocks > 1 && too_large()) --tile.min_blocks;
    if (too_large()) return;
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
