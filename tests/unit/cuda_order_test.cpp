// The order in which a launch's tiles are taken.
#include <gtest/gtest.h>

#include <map>
#include <utility>
#include <vector>

#include "kernels/common/order.h"

namespace fa::kernel {
namespace {

Order order(int batch, int heads, int tiles, int section) {
  return {.batch = batch,
          .heads = Divisor(heads),
          .first_sequence = 0,
          .tiles = Divisor(tiles),
          .section = Divisor(section),
          .section_tiles = Divisor(section * tiles),
          .first_head = 0};
}

std::vector<OrderedTile> all(const Order& o, Longest longest) {
  std::vector<OrderedTile> tiles;
  for (int i = 0; i < o.batch * o.heads.value * o.tiles.value; ++i) {
    tiles.push_back(ordered_tile(o, i, longest));
  }
  return tiles;
}

// Also where the last section has fewer heads.
TEST(Order, TakesEachTileOnce) {
  for (const int batch : {1, 3}) {
    for (const int heads : {1, 2, 7, 32}) {
      for (const int tiles : {1, 2, 13}) {
        for (const int section : {1, 2, 5, 8, 96}) {
          const Order o = order(batch, heads, tiles, section);
          std::map<std::pair<int, int>, int> taken;
          for (const auto& [head, tile] : all(o, Longest::last)) {
            EXPECT_TRUE(head >= 0 && head < batch * heads && tile >= 0 && tile < tiles);
            ++taken[{head, tile}];
          }
          EXPECT_EQ(taken.size(), static_cast<size_t>(batch * heads * tiles));
        }
      }
    }
  }
}

// Sections follow each other; in a section all heads' longest tiles come before shorter ones.
TEST(Order, TakesTheLongestOfASectionFirst) {
  constexpr int section = 5;
  const Order o = order(2, 7, 11, section);
  for (const Longest longest : {Longest::last, Longest::first}) {
    const std::vector<OrderedTile> tiles = all(o, longest);
    for (size_t i = 1; i < tiles.size(); ++i) {
      const OrderedTile &before = tiles[i - 1], &now = tiles[i];
      const int step = now.head / section - before.head / section;
      EXPECT_TRUE(step == 0 || step == 1);
      if (step == 1) continue;
      const int longer = longest == Longest::last ? before.tile - now.tile : now.tile - before.tile;
      EXPECT_TRUE(longer == 0 || longer == 1) << i;
      if (longer == 0) {
        EXPECT_EQ(now.head, before.head + 1);
      }
    }
    EXPECT_EQ(tiles.front().tile, longest == Longest::last ? 10 : 0);
  }
}

TEST(Order, OfSectionsOfOneHeadIsHeadAfterHead) {
  const Order o = order(2, 3, 4, 1);
  int i = 0;
  for (const auto& [head, tile] : all(o, Longest::first)) {
    EXPECT_EQ(head, i / 4);
    EXPECT_EQ(tile, i % 4);
    ++i;
  }
}

}  // namespace
}  // namespace fa::kernel
