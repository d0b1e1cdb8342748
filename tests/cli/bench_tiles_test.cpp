// bench/tiles as far as it goes without a device: its flags, the tiles, and what a real NVRTC
// (tools/with_nvrtc) makes of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "program.hpp"

namespace fa::test {
namespace {

// FA_PROGRAM is bench/tiles here.
Ended tiles(const std::string& arguments, const std::string& before) {
  return fa(arguments, before);
}

TEST(BenchTiles, NamesTheFlagThatIsWrong) {
  const std::pair<const char*, const char*> wrong[] = {
      {"--seqlen 512", "--head-dim"},
      {"--head-dim 60 --seqlen 512", "--head-dim"},
      {"--head-dim 64 --head-dim-v 520 --seqlen 512", "--head-dim-v"},
      {"--head-dim 64", "--seqlen"},
      {"--head-dim 64 --seqlen 0", "--seqlen"},
      {"--head-dim 64 --seqlen 512 --heads 4 --heads-k 3", "--heads-k"},
      {"--head-dim 64 --seqlen 512 --batch 2 --tokens 512", "--batch"},
      {"--head-dim 64 --seqlen 512 --packed 5,6", "--packed"},
      {"--head-dim 64 --packed 5,x", "--packed"},
      {"--head-dim 64 --seqlen 512 --window -2", "--window"},
      {"--head-dim 64 --seqlen 512 --softcap 0", "--softcap"},
      {"--head-dim 64 --seqlen 512 --dropout 1", "--dropout"},
      {"--head-dim 64 --seqlen 512 --dtype fp32", "--dtype"},
      {"--head-dim 64 --seqlen 512 --section 0", "--section"},
      {"--head-dim 64 --seqlen 512 --rounds 0", "--rounds"},
      {"--head-dim 64 --seqlen 512 --family sm70", "--family"},
      {"--head-dim 64 --seqlen 512 --arch sm_90a --tile warps=4", "names of sm90 are groups"},
      {"--head-dim 64 --seqlen 512 --list", "--arch"},
      {"--head-dim 64 --seqlen 512 --arch sm_75", "--arch: is sm_75; known are sm_80"},
      {"--head-dim 64 --seqlen 512 --arch sm_80 --tile keys=40", "--tile: keys=40: keys is 40"},
      {"--head-dim 64 --seqlen 512 --arch sm_80 --list --json tiles.json",
       "--json excludes --list"},
      {"--head-dim 64 --seqlen 512 --json /none/tiles.json", "/none/tiles.json"},
  };
  for (const auto& [arguments, flag] : wrong) {
    const Ended ended = tiles(arguments, "");
    EXPECT_EQ(ended.code, 2) << arguments;
    EXPECT_TRUE(contains(ended.err, flag)) << arguments << ": " << ended.err;
    EXPECT_EQ(ended.out, "") << arguments;
  }
}

/// `one`: a tile of the family.
void expect_each_once(const std::string& family, const std::string& one) {
  const std::string problem =
      "--head-dim 128 --seqlen 4096 --arch sm_90a --list --family " + family;
  const std::string planned = tiles(problem, "").out;
  EXPECT_EQ(std::ranges::count(planned, '\n'), 1);
  const std::string both = tiles(problem + " --tile " + one, "").out;
  EXPECT_EQ(both, planned + one + "\n");
  const std::string twice = tiles(problem + " --tile " + one + " --tile " + one, "").out;
  EXPECT_EQ(twice, both);
  const std::string all = tiles(problem + " --search --tile " + one, "").out;
  EXPECT_TRUE(all.starts_with(both));
  EXPECT_EQ(all.find(one, both.size()), all.npos);
  EXPECT_EQ(all.find(planned, planned.size()), all.npos);
  EXPECT_GT(std::ranges::count(all, '\n'), 20);
}

TEST(BenchTiles, ListsThePlannedTileThenEachOtherOnce) {
  expect_each_once("sm80",
                   "warps=4,warp_rows=32,keys=48,groups=1,stages=2,query_slices=0,min_blocks=2");
  expect_each_once(
      "sm90",
      "groups=2,keys=48,key_stages=6,value_stages=6,query_stages=2,loader_registers=24,"
      "turns=1,staged_out=0,claims=0,steps_ahead=1,bias_stages=0");
}

TEST(BenchTiles, TellsWhatKernelsTakeWithoutADevice) {
  const TemporaryFolder folder;
  const std::string json = folder / "tiles.json";
  const Ended ended =
      tiles("--head-dim 64 --packed 100,300 --arch sm_80 --tile keys=16 --section 3 --json '" +
                json + "'",
            "FA_BUNDLE= FA_CACHE_DIR='" FA_TEST_CACHE "'");
  ASSERT_EQ(ended.code, 0) << ended.err;
  EXPECT_TRUE(contains(ended.out,
                       "sm_80: bf16, head_dim 64, 64 of v, 32 query and 32 key heads, "
                       "2 packed sequences of 400 tokens, up to 300\n"));
  EXPECT_EQ(std::ranges::count(ended.out, '\n'), 2 + 3) << ended.out;

  const auto found = nlohmann::json::parse(read_bytes(json));
  EXPECT_EQ(found["device"], "sm_80");
  EXPECT_EQ(found["problem"]["lengths"], nlohmann::json({100, 300}));
  ASSERT_EQ(found["tiles"].size(), 3U);  // planned, planned with the section, keys=16
  EXPECT_TRUE(found["tiles"][0]["planned"]);
  EXPECT_EQ(found["tiles"][0]["tile"], found["tiles"][1]["tile"]);
  EXPECT_EQ(found["tiles"][1]["section"], 3);
  EXPECT_EQ(found["tiles"][2]["section"], 3);
  EXPECT_EQ(found["tiles"][2]["tile"]["keys"], 16);
  for (const auto& tile : found["tiles"]) {
    EXPECT_GT(tile["registers"], 16);
    EXPECT_LE(tile["registers"], 255);
    EXPECT_GE(tile["blocks_per_sm"], 1);
    EXPECT_FALSE(tile.contains("milliseconds"));
  }
}

}  // namespace
}  // namespace fa::test
