// What a search asks of the tiles of each family: their numbers, which are possible, which to try.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "plan/cuda/forward.hpp"

namespace fa::bench {

/// A number of a tile and its name in text; a bool is 0 or 1.
template <typename Tile>
struct TileField {
  const char* name;
  std::variant<int Tile::*, bool Tile::*> number;

  bool is_bool() const { return number.index() == 1; }
  int of(const Tile& tile) const {
    return std::visit([&](auto n) { return static_cast<int>(tile.*n); }, number);
  }
  void set(Tile& tile, int x) const {
    const auto assign = [&]<typename Number>(Number Tile::* n) {
      tile.*n = static_cast<Number>(x);
    };
    std::visit(assign, number);
  }
};

template <typename Tile>
struct TileFields;

template <>
struct TileFields<ForwardTile> {
  using Tile = ForwardTile;
  static constexpr const char* family = "sm80";
  static constexpr TileField<Tile> all[] = {{"warps", &Tile::warps},
                                            {"warp_rows", &Tile::warp_rows},
                                            {"keys", &Tile::keys},
                                            {"groups", &Tile::groups},
                                            {"stages", &Tile::stages},
                                            {"query_slices", &Tile::query_slices},
                                            {"min_blocks", &Tile::min_blocks},
                                            {"value_slices", &Tile::value_slices}};
};

template <>
struct TileFields<sm90::ForwardTile> {
  using Tile = sm90::ForwardTile;
  static constexpr const char* family = "sm90";
  static constexpr TileField<Tile> all[] = {{"groups", &Tile::groups},
                                            {"heads", &Tile::heads},
                                            {"keys", &Tile::keys},
                                            {"key_stages", &Tile::key_stages},
                                            {"value_stages", &Tile::value_stages},
                                            {"query_stages", &Tile::query_stages},
                                            {"loader_registers", &Tile::loader_registers},
                                            {"turns", &Tile::turns},
                                            {"staged_out", &Tile::staged_out},
                                            {"claims", &Tile::claims},
                                            {"steps_ahead", &Tile::steps_ahead},
                                            {"bias_stages", &Tile::bias_stages}};
};

/// Throws Error naming --tile, "{text}: {name} is {number}; {what}", unless `allowed`.
void need(bool allowed, const std::string& text, const char* name, int number,
          const std::string& what);

/// Throws Error naming --tile for a tile that the kernel or the GPU cannot have.
void need_possible(const ForwardTile& tile, const std::string& text, const Problem& problem,
                   const GpuLimits& gpu);
void need_possible(const sm90::ForwardTile& tile, const std::string& text, const Problem& problem,
                   const GpuLimits& gpu);

/// All that can be sensible, given the plan's own.
std::vector<ForwardTile> search_around(const ForwardTile& planned, const Problem& problem,
                                       const GpuLimits& gpu);
std::vector<sm90::ForwardTile> search_around(const sm90::ForwardTile& planned,
                                             const Problem& problem, const GpuLimits& gpu);

}  // namespace fa::bench
