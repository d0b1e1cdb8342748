// Tiles of family sm90.
#include <fmt/format.h>

#include <algorithm>

#include "plan/cuda/common.hpp"
#include "tiles/family_tiles.hpp"

namespace fa::bench {

namespace {

using Tile = sm90::ForwardTile;

constexpr int most_keys = 256;  // of a step
constexpr int most_stages = 16;

/// Of O, S and P; addresses and the statistics of rows take more.
int registers(const Tile& t, const Problem& p) {
  return pad16(p.head_dim_v) / 2 + t.keys / 2 + t.keys / 4;
}
/// What a thread that computes has, less those.
int register_limit(const Tile& t) { return t.group_registers() - 30; }

int shared(const Tile& t, const Problem& p) { return sm90::shared_bytes(t, p); }

bool whole_panels_of_bias(const Tile& t, const Problem& p) {
  return t.keys * bytes_of(p.score.bias_dtype) % 128 == 0;
}

}  // namespace

void need_possible(const Tile& t, const std::string& text, const Problem& p, const GpuLimits& gpu) {
  need(t.groups >= 1 && t.groups <= 3, text, "groups", t.groups, "allowed are 1 to 3");
  need(t.groups > 1 || !t.turns, text, "turns", t.turns, "a single group takes none");
  const int planned_heads = sm90::forward_tile(p).heads;
  need(t.heads == 1 || t.heads == planned_heads, text, "heads", t.heads,
       fmt::format("allowed are 1 and what the plan has, {}", planned_heads));
  need(t.heads == 1 || !t.staged_out, text, "staged_out", t.staged_out,
       "a tile of several heads has none");
  need(t.keys >= 16 && t.keys <= most_keys && t.keys % 16 == 0, text, "keys", t.keys,
       "allowed are multiples of 16 from 16 to 256");
  for (const auto& [name, stages] :
       {std::pair{"key_stages", t.key_stages}, std::pair{"value_stages", t.value_stages}}) {
    need(stages >= 1 && stages <= most_stages, text, name, stages, "allowed are 1 to 16");
  }
  need(t.query_stages == 1 || t.query_stages == 2, text, "query_stages", t.query_stages,
       "allowed are 1 and 2");
  // Multiples of 8, of the loader's group and of the others.
  const bool whole = t.loader_registers % 8 == 0 && t.loader_registers >= 24 &&
                     t.loader_registers <= 64 && t.group_registers() % 8 == 0;
  need(whole, text, "loader_registers", t.loader_registers,
       t.groups == 3 ? "allowed are 32 and 56" : "allowed are 24, 40 and 56");
  need(t.steps_ahead <= most_stages, text, "steps_ahead", t.steps_ahead, "allowed are 0 to 16");
  const bool brings_bias =
      p.score.bias && p.score.bias_aligned && p.alignment == 16 && whole_panels_of_bias(t, p);
  need(t.bias_stages == 0 || brings_bias, text, "bias_stages", t.bias_stages,
       "it is 0 without an aligned bias, whose rows in a step have a multiple of 128 bytes");
  const int bytes = shared(t, p);
  need(bytes <= gpu.shared_per_block, text, "keys", t.keys,
       fmt::format("a block has {} bytes of shared memory, {} allows {}", bytes, gpu.arch,
                   gpu.shared_per_block));
}

namespace {

/// As many stages as there is room for: what waits in shared memory hides how long copies take.
std::vector<Tile> sizes_around(const Tile& planned, const Problem& p, const GpuLimits& gpu) {
  std::vector<Tile> tiles;
  Tile tile = planned;
  const auto fits_with = [&](int key_stages, int value_stages) {
    tile.key_stages = key_stages;
    tile.value_stages = value_stages;
    return shared(tile, p) <= gpu.shared_per_block;
  };
  const auto add = [&](int key_stages, int value_stages) {
    if (fits_with(key_stages, value_stages)) tiles.push_back(tile);
  };
  for (tile.groups = 2; tile.groups <= 3; ++tile.groups) {
    tile.loader_registers = tile.groups == planned.groups ? planned.loader_registers
                            : tile.groups == 3            ? 32
                                                          : 24;
    for (tile.keys = 48; tile.keys <= 176; tile.keys += 16) {
      if (registers(tile, p) > register_limit(tile)) break;
      if (tile.bias_stages > 0 && !whole_panels_of_bias(tile, p)) continue;
      for (tile.query_stages = 1; tile.query_stages <= 2; ++tile.query_stages) {
        for (const bool staged : {false, true}) {
          if (staged && tile.heads > 1) break;
          tile.staged_out = staged;
          int stages = 2;
          while (stages < 8 && fits_with(stages + 1, stages + 1)) ++stages;
          add(stages, stages);
          add(stages, stages + 1);
          add(stages + 1, stages);
        }
      }
    }
  }
  return tiles;
}

/// Of the planned sizes: who hands the tiles out, when, and with how many registers.
std::vector<Tile> loaders_around(const Tile& planned) {
  std::vector<Tile> tiles;
  Tile tile = planned;
  for (const int registers : {24, 32, 40, 56}) {
    tile.loader_registers = registers;
    if (tile.group_registers() % 8 != 0) continue;
    for (const bool claims : {false, true}) {
      tile.claims = claims;
      for (tile.steps_ahead = 0; tile.steps_ahead <= 2; ++tile.steps_ahead) tiles.push_back(tile);
    }
  }
  return tiles;
}

}  // namespace

std::vector<Tile> search_around(const Tile& planned, const Problem& p, const GpuLimits& gpu) {
  std::vector<Tile> tiles = sizes_around(planned, p, gpu);
  for (const Tile& tile : loaders_around(planned)) {
    if (std::ranges::find(tiles, tile) == tiles.end()) tiles.push_back(tile);
  }
  tiles.push_back(planned);
  tiles.back().turns = false;
  return tiles;
}

}  // namespace fa::bench
