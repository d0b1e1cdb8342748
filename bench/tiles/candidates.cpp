#include "tiles/candidates.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <variant>

#include "plan/cuda/sm90/kernels.hpp"
#include "problem/argument.hpp"
#include "tiles/family_tiles.hpp"
#include "tiles/number.hpp"

namespace fa::bench {

namespace {

template <typename Tile>
Tile parse(const std::string& text) {
  Tile tile;
  for (const std::string_view part : split(text)) {
    const size_t equals = part.find('=');
    const auto& fields = TileFields<Tile>::all;
    const auto field = std::ranges::find_if(
        fields, [&](const auto& f) { return part.substr(0, equals) == f.name; });
    const auto number = equals == part.npos ? std::nullopt : parse_number(part.substr(equals + 1));
    if (field == std::end(fields) || !number || *number < 0 || *number > INT16_MAX) {
      std::string names;
      for (const auto& f : fields) names += fmt::format(" {}", f.name);
      fail(Status::invalid_argument, "--tile", "{}: \"{}\" is no NAME=NUMBER; names of {} are{}",
           text, part, TileFields<Tile>::family, names);
    }
    const int value = static_cast<int>(*number);
    need(!field->is_bool() || value < 2, text, field->name, value, "allowed are 0 and 1");
    field->set(tile, value);
  }
  return tile;
}

}  // namespace

void need(bool allowed, const std::string& text, const char* name, int number,
          const std::string& what) {
  if (allowed) return;
  fail(Status::invalid_argument, "--tile", "{}: {} is {}; {}", text, name, number, what);
}

FamilyTile planned_tile(const Problem& p, const GpuLimits& gpu) {
  if (p.run.family != Family::sm80 && sm90::forward(p, gpu).kernel) return sm90::forward_tile(p);
  return forward_tile(p, gpu);
}

FamilyTile parse_tile(const std::string& text, const Problem& p, const GpuLimits& gpu) {
  const auto parsed = [&]<typename Tile>(const Tile&) -> FamilyTile {
    const Tile tile = parse<Tile>(text);
    need_possible(tile, text, p, gpu);
    return tile;
  };
  return std::visit(parsed, planned_tile(p, gpu));
}

std::vector<std::pair<std::string, int>> tile_numbers(const FamilyTile& any) {
  std::vector<std::pair<std::string, int>> numbers;
  const auto add = [&]<typename Tile>(const Tile& tile) {
    for (const auto& f : TileFields<Tile>::all) numbers.emplace_back(f.name, f.of(tile));
  };
  std::visit(add, any);
  return numbers;
}

std::string tile_text(const FamilyTile& tile) {
  std::string text;
  for (const auto& [name, number] : tile_numbers(tile)) {
    if ((name == "value_slices" || name == "heads") && number == 1) continue;
    text += fmt::format("{}{}={}", text.empty() ? "" : ",", name, number);
  }
  return text;
}

std::vector<FamilyTile> search_tiles(const Problem& p, const GpuLimits& gpu) {
  const auto search = [&](const auto& planned) {
    const auto tiles = search_around(planned, p, gpu);
    return std::vector<FamilyTile>(tiles.begin(), tiles.end());
  };
  return std::visit(search, planned_tile(p, gpu));
}

}  // namespace fa::bench
