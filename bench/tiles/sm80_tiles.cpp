// Tiles of family sm80.
#include <fmt/format.h>

#include <algorithm>
#include <climits>
#include <set>

#include "tiles/family_tiles.hpp"

namespace fa::bench {

namespace {

constexpr int most_keys = 256;  // of a step
constexpr int most_stages = 16;

int slices_of(const Problem& p) { return static_cast<int>((p.head_dim + 15) / 16); }

bool fits_with_threads(const ForwardTile& tile, const Problem& p, const GpuLimits& gpu) {
  return tile.min_blocks <= gpu.blocks_per_sm &&
         32 * tile.warps * tile.min_blocks <= gpu.threads_per_sm &&
         fits(tile, p.head_dim, p.head_dim_v, gpu);
}

/// The most blocks of a multiprocessor that the tile can have, and the next fewer ones that have
/// more registers; but not so few that it has less than `least_warps`.
std::vector<int> sensible_blocks(ForwardTile tile, const Problem& p, const GpuLimits& gpu,
                                 int least_warps) {
  std::vector<int> blocks;
  int limit = INT_MAX;
  for (tile.min_blocks = 1; fits_with_threads(tile, p, gpu); ++tile.min_blocks) {
    if (registers(tile, p.head_dim_v) > register_limit(tile)) break;
    if (register_limit(tile) == limit && !blocks.empty()) blocks.pop_back();
    limit = register_limit(tile);
    if (tile.warps * tile.min_blocks >= least_warps) blocks.push_back(tile.min_blocks);
  }
  if (blocks.size() > 2) blocks.erase(blocks.begin(), blocks.end() - 2);
  return blocks;
}

}  // namespace

void need_possible(const ForwardTile& t, const std::string& text, const Problem& p,
                   const GpuLimits& gpu) {
  need(t.groups == 1 || t.groups == 2, text, "groups", t.groups, "allowed are 1 and 2");
  need(t.warps >= 1 && t.warps <= 32 && t.warps % t.groups == 0, text, "warps", t.warps,
       "allowed are multiples of groups up to 32");
  need(t.warp_rows == 16 || t.warp_rows == 32, text, "warp_rows", t.warp_rows,
       "allowed are 16 and 32");
  need(t.keys >= 16 && t.keys <= most_keys && t.keys % 16 == 0, text, "keys", t.keys,
       "allowed are multiples of 16 from 16 to 256");
  need(t.stages > t.groups && t.stages <= most_stages, text, "stages", t.stages,
       "allowed are groups + 1 to 16");
  need(t.query_slices >= 0 && t.query_slices <= slices_of(p), text, "query_slices", t.query_slices,
       "allowed are 0 to a sixteenth of head_dim");
  need(t.value_slices >= 1 && (t.value_slices - 1) * value_columns(t, p.head_dim_v) < p.head_dim_v,
       text, "value_slices", t.value_slices, "allowed is what leaves each 8 columns of v or more");
  need(t.min_blocks >= 1 && fits_with_threads(t, p, gpu), text, "min_blocks", t.min_blocks,
       fmt::format("a block has {} threads and {} bytes of shared memory, {} a multiprocessor's {} "
                   "and {}",
                   32 * t.warps, shared_bytes(t, p.head_dim, p.head_dim_v), gpu.arch,
                   gpu.threads_per_sm, gpu.shared_per_sm));
}

std::vector<ForwardTile> search_around(const ForwardTile& planned, const Problem& p,
                                       const GpuLimits& gpu) {
  std::set<int> query_slices{0, slices_of(p) / 2, slices_of(p)};
  if (p.head_dim > 256) query_slices.insert(slices_of(p) / 4);  // half are too many registers
  std::vector<ForwardTile> tiles;
  // Two for each scheduler, where the plan can have them.
  const int least_warps = std::min(2 * sm_quarters, planned.warps * planned.min_blocks);
  ForwardTile tile{.value_slices = planned.value_slices};
  // Stages and blocks. A stage more that costs a block is not worth it.
  const auto add = [&] {
    tile.stages = tile.groups + 1;
    const std::vector<int> blocks = sensible_blocks(tile, p, gpu, least_warps);
    for (tile.stages = tile.groups + 1; tile.stages <= tile.groups + 2; ++tile.stages) {
      for (const int min_blocks : sensible_blocks(tile, p, gpu, least_warps)) {
        if (std::ranges::find(blocks, min_blocks) == blocks.end()) continue;
        tiles.push_back(tile);
        tiles.back().min_blocks = min_blocks;
      }
    }
  };
  for (tile.warps = std::min(4, planned.warps); tile.warps <= 8; tile.warps *= 2) {
    for (tile.warp_rows = 16; tile.warp_rows <= 32; tile.warp_rows += 16) {
      for (tile.keys = 16; tile.keys <= 96; tile.keys += 16) {
        for (tile.groups = 1; tile.groups <= 2; ++tile.groups) {
          for (const int slices : query_slices) {
            tile.query_slices = slices;
            add();
          }
        }
      }
    }
  }
  return tiles;
}

}  // namespace fa::bench
