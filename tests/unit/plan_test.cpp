#include "plan/cpu/plan.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace {

using namespace fa;

Problem problem(int64_t heads_q, int64_t heads_k, int64_t seqlen_q, int64_t seqlen_k) {
  Problem p;
  p.dtype = float32;
  p.batch = 2;
  p.q.heads = heads_q;
  p.k.heads = heads_k;
  p.head_dim = p.head_dim_v = 64;
  p.q.seqlen = seqlen_q;
  p.k.seqlen = seqlen_k;
  p.q.tokens = 2 * seqlen_q;
  p.k.tokens = 2 * seqlen_k;
  return p;
}

TEST(Tiles, CoverEveryRowOfEveryHeadOnce) {
  for (const int64_t group : {1, 2, 3, 8, 130}) {
    for (const int64_t q_len : {0, 1, 2, 31, 95, 96, 97, 300}) {
      const TileShape shape = tile_shape(group, q_len, 96);
      std::vector<int> seen(group * q_len);
      for (int64_t t = 0; t < shape.count(); ++t) {
        const Tile tile = tile_at(shape, group, q_len, t);
        EXPECT_LE(tile.heads * tile.rows, 96);
        EXPECT_GT(tile.heads * tile.rows, 0);
        for (int64_t h = 0; h < tile.heads; ++h) {
          for (int64_t r = 0; r < tile.rows; ++r) {
            ++seen[(tile.head + h) * q_len + tile.row + r];
          }
        }
      }
      for (const int count : seen) EXPECT_EQ(count, 1);
    }
  }
}

TEST(Cut, FewQueriesAreCutAlongTheKeysAndManyShareAPack) {
  const CpuPlan decode = plan_cpu(problem(8, 2, 1, 5000), 2);
  const ForwardCut one = cut_forward(decode, 1, 5000);
  EXPECT_EQ(one.tiles.count(), 1);
  EXPECT_EQ(one.chunks, 10);
  EXPECT_EQ(one.pack_blocks, 0);
  const ForwardCut many = cut_forward(decode, 97, 5000);
  EXPECT_EQ(many.chunks, 1);
  EXPECT_EQ(many.pack_blocks, 40);
}

TEST(Cut, ManyHeadsOnOneKeyHeadAreCutAlongTheKeysWhileDecoding) {
  Problem p = problem(128, 1, 1, 32768);
  p.head_dim = 576;
  p.head_dim_v = 512;
  const CpuPlan plan = plan_cpu(p, 2);
  const ForwardCut cut = cut_forward(plan, 1, 32768);
  EXPECT_EQ(cut.tiles.count(), 2);
  EXPECT_EQ(cut.chunks, 64);
  EXPECT_EQ(cut.pack_blocks, 0);
  EXPECT_FALSE(cut.in_place) << "128 rows are many enough to pack for";
  // Partial outputs of one sequence: 64 chunks x 128 rows x 513 floats.
  EXPECT_LE(plan.shared_bytes, 64 * 128 * 514 * sizeof(float));
}

TEST(Cut, FewRowsReadTheKeysOfSeveralHeadsInPlace) {
  Problem p = problem(32, 8, 1, 5000);
  p.head_dim = p.head_dim_v = 128;
  const ForwardCut decode = cut_forward(plan_cpu(p, 2), 1, 5000);
  EXPECT_TRUE(decode.in_place);
  EXPECT_EQ(decode.heads_k, 8) << "4 KB of a key";
  EXPECT_EQ(decode.units(8), 1);
  EXPECT_EQ(cut_forward(plan_cpu(p, 2), 8, 5000).heads_k, 3) << "32 rows each, of a tile's 96";
  EXPECT_FALSE(cut_forward(plan_cpu(p, 2), 9, 5000).in_place) << "36 rows";
  p.q.heads = p.k.heads = 64;
  EXPECT_EQ(cut_forward(plan_cpu(p, 2), 1, 5000).heads_k, 16) << "8 KB of a key";
}

TEST(Plan, ManyKeyHeadsAreWorkedOnAFewAtATime) {
  Problem p = problem(32, 32, 4096, 4096);
  p.batch = 64;
  p.q.tokens = p.k.tokens = 64 * 4096;
  const CpuPlan plan = plan_cpu(p, 4);
  EXPECT_LE(plan.shared_bytes, size_t{4} * 16 << 20);
  EXPECT_GT(plan.units_in_work, 1);
}

TEST(Cut, DependsOnTheSequenceAloneNotOnBatchOrThreads) {
  Problem a = problem(8, 2, 200, 5000);
  Problem b = a;
  b.batch = 7;
  b.q.tokens = 7 * 200;
  const ForwardCut x = cut_forward(plan_cpu(a, 1), 33, 4000);
  const ForwardCut y = cut_forward(plan_cpu(b, 64), 33, 4000);
  EXPECT_EQ(x.chunks, y.chunks);
  EXPECT_EQ(x.tiles.heads, y.tiles.heads);
  EXPECT_EQ(x.tiles.rows, y.tiles.rows);
}

TEST(Plan, BackwardChunksAreBounded) {
  Problem p = problem(1, 1, 1 << 20, 1 << 20);
  p.pass = Pass::backward;
  EXPECT_EQ(plan_cpu(p, 64).backward_chunks, max_backward_chunks);
  p.q.heads = p.k.heads = 32;
  EXPECT_EQ(plan_cpu(p, 64).backward_chunks, 1);
}

TEST(Plan, RoomForTheLongestUnitWhateverTheLengths) {
  Problem p = problem(4, 2, 3000, 7000);
  p.q.used = p.k.used = true;
  const CpuPlan plan = plan_cpu(p, 3);
  for (const int64_t q_len : {0, 1, 2, 3, 5, 16, 17, 24, 48, 49, 96, 500, 3000}) {
    for (const int64_t k_len : {0, 1, 1024, 1025, 7000}) {
      const int64_t floats = cut_forward(plan, q_len, k_len).floats();
      EXPECT_LE(floats, plan.unit_floats);
      EXPECT_LE(floats * sizeof(float), plan.shared_bytes);
    }
  }
}

TEST(Plan, DecodingHasTilesForEachThread) {
  Problem p = problem(32, 32, 1, 512);
  p.head_dim = p.head_dim_v = 128;
  for (const int threads : {1, 2, 5, 8}) {
    const CpuPlan plan = plan_cpu(p, threads);
    const ForwardCut cut = cut_forward(plan, 1, 512);
    EXPECT_GE(p.batch * cut.units(32) * cut.items(), 4 * threads);
    EXPECT_LE(plan.units_in_work, p.batch * cut.units(32));
  }
}

TEST(Plan, OneLongSequenceAmongShortOnesIsSharedByThreads) {
  Problem p = problem(1, 1, 3000, 3000);
  p.q.packed = p.k.packed = true;
  p.batch = 64;
  p.q.tokens = p.k.tokens = 3000 + 63 * 16;
  EXPECT_FALSE(plan_cpu(p, 2).whole_units);
  p.q.tokens = p.k.tokens = 64 * 3000;
  EXPECT_TRUE(plan_cpu(p, 2).whole_units);
}

TEST(Plan, LongHeadsHaveTilesOfTwiceTheRowsIfThereAreEnough) {
  EXPECT_EQ(plan_cpu(problem(4, 4, 9000, 9000), 2).packed_rows, 96) << "5.5 MB";
  EXPECT_EQ(plan_cpu(problem(4, 4, 12000, 12000), 2).packed_rows, 192) << "7.3 MB";
  EXPECT_EQ(plan_cpu(problem(4, 4, 12000, 12000), 64).packed_rows, 96) << "8 tiles a thread";
}

TEST(Plan, LargeOutputsAreStreamed) {
  EXPECT_FALSE(plan_cpu(problem(2, 2, 2047, 2047), 2).streams_out);
  EXPECT_TRUE(plan_cpu(problem(2, 2, 2048, 2048), 2).streams_out) << "2 MB";
  EXPECT_FALSE(plan_cpu(problem(32, 32, 1, 32768), 2).streams_out);
}

TEST(Plan, SmallProblemsStayOnOneThread) {
  EXPECT_EQ(plan_cpu(problem(2, 2, 16, 16), 8).threads, 1);
  EXPECT_EQ(plan_cpu(problem(8, 8, 1024, 1024), 8).threads, 8);
  Problem asked = problem(2, 2, 16, 16);
  asked.run.num_threads = 3;
  EXPECT_EQ(plan_cpu(asked, 8).threads, 3);
}

TEST(Plan, ThreadsAreHeldToTheWork) {
  Problem p = problem(4, 4, 64, 64);  // 2 sequences of 4 heads, a tile each
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    p.pass = pass;
    p.run.num_threads = 8;
    const size_t bytes = plan_cpu(p, 1).workspace_bytes;
    EXPECT_EQ(plan_cpu(p, 1).threads, 8);
    p.run.num_threads = 4096;
    EXPECT_EQ(plan_cpu(p, 1).threads, 8);
    EXPECT_EQ(plan_cpu(p, 1).workspace_bytes, bytes);
    p.run.num_threads = 0;
    EXPECT_EQ(plan_cpu(p, 4096).workspace_bytes, bytes) << "nor by default";
  }
  // Decoding: as many as there are chunks of keys; packing: as there are blocks of keys.
  EXPECT_EQ(plan_cpu(problem(8, 2, 1, 5000), 4096).threads, 2 * 2 * 10);
  EXPECT_EQ(plan_cpu(problem(1, 1, 97, 5000), 4096).threads, 2 * 40);
  Problem bias = problem(1, 1, 1000, 1000);
  bias.pass = Pass::backward;
  EXPECT_EQ(plan_cpu(bias, 4096).threads, 2 * 2) << "a quarter of the keys and more";
  bias.score.bias = bias.wants.dbias = bias.score.bias_per_batch = bias.score.bias_per_head =
      bias.score.bias_per_row = true;
  EXPECT_GT(plan_cpu(bias, 4096).threads, 100) << "tiles of dbias";
  EXPECT_EQ(plan_cpu(problem(8, 8, 0, 0), 4096).threads, 1);
}

TEST(Plan, ArithmeticIsTheCpusForBfloat16WhereItFits) {
  const auto plan_of = [](Arithmetic cpus, auto&& change) {
    Problem p = problem(8, 2, 256, 256);
    p.dtype = bfloat16;
    p.head_dim = p.head_dim_v = 64;
    p.score.scale = 0.125;
    change(p);
    return plan_cpu(p, 2, cpus);
  };
  const auto as_is = [](Problem&) {};
  const auto half = [](Problem& p) { p.dtype = float16; };
  const auto narrow = [](Problem& p) { p.head_dim_v = 40; };
  const auto small = [](Problem& p) { p.score.scale = -0x1p-13; };
  for (const Arithmetic cpus : {Arithmetic::widened, Arithmetic::pairs, Arithmetic::tiles}) {
    EXPECT_EQ(plan_of(cpus, as_is).arithmetic, cpus);
    EXPECT_EQ(plan_of(cpus, half).arithmetic, Arithmetic::widened);
    EXPECT_EQ(plan_of(cpus, small).arithmetic, Arithmetic::widened);
  }
  EXPECT_EQ(plan_of(Arithmetic::pairs, as_is).arithmetic_in_place, Arithmetic::pairs);
  EXPECT_EQ(plan_of(Arithmetic::tiles, as_is).arithmetic_in_place, Arithmetic::widened);
  EXPECT_EQ(plan_of(Arithmetic::pairs, narrow).arithmetic, Arithmetic::pairs);
  EXPECT_EQ(plan_of(Arithmetic::pairs, narrow).arithmetic_in_place, Arithmetic::widened);
  EXPECT_EQ(plan_of(Arithmetic::tiles, narrow).arithmetic, Arithmetic::widened);
  const std::string text = to_text(plan_of(Arithmetic::tiles, as_is));
  EXPECT_NE(text.find("products: bfloat16, by tiles"), std::string::npos) << text;
}

TEST(Plan, TextNamesWhatWasDecided) {
  const std::string text = to_text(plan_cpu(problem(8, 2, 1, 5000), 2));
  for (const char* part :
       {"pass: forward", "heads: 8 query, 2 key", "key chunks: 10", "workspace:"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
}

}  // namespace
