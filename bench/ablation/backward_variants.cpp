#include <algorithm>
#include <utility>

#include "ablation/variants.hpp"

namespace fa::bench {

std::vector<BackwardVariant> backward_variants(const Problem& problem, const GpuLimits& gpu) {
  const BackwardTile planned = backward_tile(problem, gpu);
  const int parts = plan_cuda_backward(problem, gpu).parts;
  std::vector<BackwardVariant> all = {{"normal", "as planned", {}}};
  const auto add = [&](std::string name, std::string meaning, const BackwardTile& tile) {
    if (tile == planned || !fits(tile, problem.head_dim, problem.head_dim_v, gpu)) return;
    all.push_back({std::move(name), std::move(meaning), {.tile = tile, .parts = parts}});
  };
  BackwardTile tile = planned;
  tile.stages = 1;
  add("no copies ahead", "a step's Q and dO are loaded when the one before is done", tile);
  tile = planned;
  tile.key_slices = tile.value_slices = 0;
  add("nothing kept", "K and V are read from shared memory in each step", tile);
  tile = planned;
  tile.row_warps = std::min(tile.warps, tile.rows / 16);
  add("rows split", "warps share S by rows alone, as in the forward pass", tile);
  if (parts > 1) {
    all.push_back({"heads together",
                   "a block for all query heads of a group",
                   {.tile = planned, .parts = 1}});
  }
  return all;
}

}  // namespace fa::bench
