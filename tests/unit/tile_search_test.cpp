// What bench/tiles times: its tiles and its problems.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "plan/cuda/forward.hpp"
#include "tiles/candidates.hpp"
#include "tiles/work.hpp"

namespace fa::bench {
namespace {

constexpr Device device{cuda_device, 0};

Work work(int64_t head_dim, int64_t head_dim_v, int64_t seqlen = 4096,
          Family family = Family::sm80) {
  Work w;
  w.family = family;
  w.head_dim = head_dim;
  w.head_dim_v = head_dim_v;
  w.heads_q = w.heads_k = 4;
  w.batch = 2;
  w.seqlen_q = w.seqlen_k = seqlen;
  return w;
}

Problem problem(const Work& work) { return call_of(work, {}, device, Data::optional).problem; }

template <typename Function>
std::string error_of(const Function& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

void expect_possible_and_different(const std::vector<FamilyTile>& tiles, const Problem& p,
                                   const GpuLimits& gpu) {
  EXPECT_FALSE(tiles.empty());
  EXPECT_LE(tiles.size(), 500U);
  for (size_t n = 0; n < tiles.size(); ++n) {
    const std::string text = tile_text(tiles[n]);
    EXPECT_EQ(parse_tile(text, p, gpu), tiles[n]) << text;  // which refuses what cannot be
    const auto end = tiles.begin() + static_cast<ptrdiff_t>(n);
    EXPECT_EQ(std::find(tiles.begin(), end, tiles[n]), end) << text;
  }
}

TEST(TileSearch, FindsDifferentTilesThatTheGpuCanHave) {
  for (const GpuLimits& gpu : known_gpus()) {
    for (const auto& [dim, dim_v] : {std::pair<int64_t, int64_t>{16, 16},
                                     {64, 64},
                                     {96, 96},
                                     {128, 128},
                                     {192, 128},
                                     {256, 256},
                                     {64, 512},
                                     {264, 128},
                                     {320, 320},
                                     {512, 264},
                                     {512, 512},
                                     {576, 512}}) {
      SCOPED_TRACE(gpu.arch + ", head_dim " + std::to_string(dim));
      const Problem p = problem(work(dim, dim_v));
      const std::vector<FamilyTile> tiles = search_tiles(p, gpu);
      expect_possible_and_different(tiles, p, gpu);
      for (const FamilyTile& any : tiles) {
        const auto& tile = std::get<ForwardTile>(any);
        EXPECT_LE(registers(tile, p.head_dim_v), register_limit(tile)) << tile_text(tile);
        EXPECT_GE(resident_blocks(gpu, 32 * tile.warps, register_limit(tile),
                                  shared_bytes(tile, dim, dim_v)),
                  tile.min_blocks)
            << tile_text(tile);
      }
    }
  }
}

TEST(TileSearch, FindsTheTilesOfHopper) {
  const GpuLimits& gpu = *known_gpu("sm_90a");
  for (const Family family : {Family::sm80, Family::automatic}) {
    for (const int64_t dim : {64, 128, 256}) {
      for (const int64_t seqlen : {512, 4096}) {
        if (family == Family::sm80 && dim > 128) continue;
        const Problem p = problem(work(dim, dim, seqlen, family));
        const std::vector<FamilyTile> tiles = search_tiles(p, gpu);
        const FamilyTile planned = planned_tile(p, gpu);
        EXPECT_EQ(std::holds_alternative<sm90::ForwardTile>(planned), family == Family::automatic);
        EXPECT_NE(std::ranges::find(tiles, planned), tiles.end()) << tile_text(planned);
        expect_possible_and_different(tiles, p, gpu);
      }
    }
  }
}

TEST(TileText, LeavesWhatIsNotNamed) {
  const Problem p = problem(work(64, 64));
  const FamilyTile tile = parse_tile("keys=48,query_slices=4", p, *known_gpu("sm_90a"));
  EXPECT_EQ(tile, FamilyTile(ForwardTile{.keys = 48, .query_slices = 4}));
  const FamilyTile hopper =
      parse_tile("groups=3,loader_registers=32,claims=1", problem(work(64, 64, 4096, Family::sm90)),
                 *known_gpu("sm_90a"));
  EXPECT_EQ(hopper,
            FamilyTile(sm90::ForwardTile{.groups = 3, .loader_registers = 32, .claims = true}));
}

TEST(TileText, ErrorsNameTheFlagAndWhatIsAllowed) {
  const Problem p = problem(work(64, 64));
  const std::pair<const char*, const char*> wrong[] = {
      {"", "no NAME=NUMBER"},
      {"keys", "no NAME=NUMBER"},
      {"key=32", "\"key=32\" is no NAME=NUMBER; names of sm80 are warps"},
      {"keys=32x", "no NAME=NUMBER"},
      {"keys=-16", "no NAME=NUMBER"},
      {"keys=40", "keys is 40; allowed are multiples of 16"},
      {"keys=0", "keys is 0"},
      {"groups=3", "groups is 3; allowed are 1 and 2"},
      {"warps=3,groups=2,stages=3", "warps is 3"},
      {"warps=0", "warps is 0"},
      {"warp_rows=64", "warp_rows is 64"},
      {"groups=2,stages=2", "stages is 2; allowed are groups + 1"},
      {"query_slices=5", "query_slices is 5"},
      {"value_slices=9", "value_slices is 9"},
      {"min_blocks=0", "min_blocks is 0"},
      {"min_blocks=32767", "min_blocks is 32767"},
      {"min_blocks=17", "min_blocks is 17; a block has 128 threads"},
      {"keys=256,stages=4", "min_blocks is 1; a block has 128 threads and 278528 bytes"},
  };
  for (const auto& [text, part] : wrong) {
    const std::string error = error_of([&] { parse_tile(text, p, *known_gpu("sm_90a")); });
    EXPECT_TRUE(error.starts_with("--tile: ")) << text << ": " << error;
    EXPECT_NE(error.find(part), error.npos) << text << ": " << error;
  }
}

TEST(TileText, ErrorsNameTheFlagAndWhatHopperAllows) {
  const Problem p = problem(work(128, 128, 4096, Family::sm90));
  const std::pair<const char*, const char*> wrong[] = {
      {"warps=4", "\"warps=4\" is no NAME=NUMBER; names of sm90 are groups"},
      {"groups=4", "groups is 4; allowed are 1 to 3"},
      {"groups=1", "turns is 1; a single group takes none"},
      {"keys=40", "keys is 40; allowed are multiples of 16"},
      {"key_stages=0", "key_stages is 0; allowed are 1 to 16"},
      {"value_stages=17", "value_stages is 17"},
      {"query_stages=3", "query_stages is 3; allowed are 1 and 2"},
      {"loader_registers=32", "loader_registers is 32; allowed are 24, 40 and 56"},
      {"groups=3", "loader_registers is 24; allowed are 32 and 56"},
      {"turns=2", "turns is 2; allowed are 0 and 1"},
      {"steps_ahead=17", "steps_ahead is 17; allowed are 0 to 16"},
      {"keys=256", "keys is 256; a block has 295232 bytes of shared memory, sm_90a allows 232448"},
  };
  for (const auto& [text, part] : wrong) {
    const std::string error = error_of([&] { parse_tile(text, p, *known_gpu("sm_90a")); });
    EXPECT_TRUE(error.starts_with("--tile: ")) << text << ": " << error;
    EXPECT_NE(error.find(part), error.npos) << text << ": " << error;
  }
}

TEST(TileWork, CountsAsThePaperDoes) {
  Work w = work(64, 32, 100);
  w.seqlen_k = 300;
  const double all = 2.0 * 2 * 4 * 100 * 300 * (64 + 32);
  EXPECT_EQ(w.flops(), all);
  w.causal = true;
  EXPECT_EQ(w.flops(), all / 2);
}

TEST(TileWork, CountsThePairsThatAWindowLeaves) {
  Work w = work(64, 64, 100);
  w.window = 10;
  for (const int64_t keys : {70, 100, 130}) {
    for (const bool causal : {false, true}) {
      w.seqlen_k = keys;
      w.causal = causal;
      int64_t seen = 0;
      for (int64_t i = 0; i < 100; ++i) {
        for (int64_t j = 0; j < keys; ++j) {
          const int64_t after = j - (i + keys - 100);
          seen += after >= -10 && (!causal || after <= 0) ? 1 : 0;
        }
      }
      EXPECT_EQ(w.flops(), 4.0 * 64 * 4 * 2 * static_cast<double>(seen)) << keys << causal;
    }
  }
}

TEST(TileWork, PacksSequences) {
  Work w = work(64, 64);
  w.lengths = parse_lengths("100,20,300");
  EXPECT_EQ(w.lengths, (std::vector<int64_t>{100, 20, 300}));
  w.batch = 3;
  w.seqlen_q = w.seqlen_k = 300;
  w.alibi = true;
  EXPECT_EQ(w.flops(), 4.0 * 64 * 4 * (100 * 100 + 20 * 20 + 300 * 300));
  EXPECT_EQ(cu_seqlens(w), (std::vector<int32_t>{0, 100, 120, 420}));
  const Problem p = problem(w);
  EXPECT_TRUE(p.q.packed && p.k.packed && p.score.alibi && p.wants.lse);
  EXPECT_EQ(p.batch, 3);
  EXPECT_EQ(p.q.tokens, 420);
  EXPECT_EQ(p.k.seqlen, 300);
  EXPECT_EQ(p.alignment, 16);
}

TEST(TileWork, DrawsTheSameLengthsFromASeed) {
  const std::vector<int64_t> lengths = parse_lengths("lognormal:64:1");
  EXPECT_EQ(lengths.size(), 64U);
  EXPECT_EQ(lengths, parse_lengths("lognormal:64:1"));
  EXPECT_NE(lengths, parse_lengths("lognormal:64:2"));
  EXPECT_GE(std::ranges::min(lengths), 8);
  EXPECT_LE(std::ranges::max(lengths), 8192);
  for (const char* wrong : {"", "0", "1,,2", "1,x", "lognormal:", "lognormal:64", "lognormal:0:1",
                            "lognormal:64:-1", "lognormal:64:1:2", "normal:64:1"}) {
    const std::string error = error_of([&] { parse_lengths(wrong); });
    EXPECT_TRUE(error.starts_with("--packed: is ")) << wrong << ": " << error;
  }
}

}  // namespace
}  // namespace fa::bench
