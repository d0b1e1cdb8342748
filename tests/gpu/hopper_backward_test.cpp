// The backward kernels of family sm90: with tiles of all kinds, for wide heads, and launched again.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "cuda/launch/passes.hpp"
#include "cuda/runtime/device.hpp"
#include "gpu/gpu.hpp"
#include "gpu/repeats.hpp"
#include "problem/problem.hpp"

namespace fa::test {
namespace {

/// Tiles of a problem: of both lengths of a step, and of both numbers of stages, where they fit.
std::vector<sm90::BackwardTile> tiles_of(const Problem& p) {
  std::vector<sm90::BackwardTile> tiles;
  const bool narrow = p.head_dim <= 64 && p.head_dim_v <= 64;
  for (const int rows : {64, 128}) {
    if (rows == 128 && !narrow) continue;
    tiles.push_back({.rows = rows, .rotates = true, .first_stores = true});
    tiles.push_back({.rows = rows, .clears_sums = true});
    tiles.push_back(
        {.rows = rows, .key_stages = p.head_dim <= 64 ? 2 : 1, .value_stages = narrow ? 2 : 1});
  }
  return tiles;
}

/// Of 128 keys for each step of the rows: several tiles of both.
check::Spec several_tiles(int64_t dim, int64_t dim_v, int64_t keys = 300) {
  check::Spec spec = problem({.batch = 2,
                              .rows = 290,
                              .keys = keys,
                              .heads_q = 4,
                              .heads_k = 2,
                              .dim = dim,
                              .dim_v = dim_v});
  spec.backward = true;
  return spec;
}

void expect_tiles_right(const check::Spec& spec) {
  using reference::Rounding;
  const check::Case c(spec);
  GpuPlace place;
  run(c, place);
  const BackwardArgs args = c.backward_args();
  const auto exact = reference::backward(args, c.options(), Rounding::exact);
  const auto plain = reference::backward(args, c.options(), Rounding::plain);
  const Problem planned = validate(args, c.options(), Data::optional).problem;
  int parts = 1;
  for (const sm90::BackwardTile& tile : tiles_of(planned)) {
    SCOPED_TRACE(testing::Message()
                 << tile.rows << " rows, " << tile.key_stages << " of K, " << tile.value_stages
                 << " of V, " << (tile.rotates ? "rotates, " : "") << spec.text());
    c.poison(true);
    place.run(c.memory(), [&](const check::Place::Here& here) {
      const Call call = validate(here(c.backward_args()), here(c.options()), Data::required);
      cuda::plan_backward(call.problem, {.tile = tile, .parts = parts})->run(call, here.stream());
    });
    const DType dtype = spec.dtype;
    expect_close("dq", c.dq.values(), dtype, dtype, {exact.dq, plain.dq, exact.dq_abs});
    expect_close("dk", c.dk.values(), dtype, dtype, {exact.dk, plain.dk, exact.dk_abs});
    expect_close("dv", c.dv.values(), dtype, dtype, {exact.dv, plain.dv, exact.dv_abs});
    parts = 3 - parts;
  }
}

TEST(HopperBackward, OfOtherTilesIsRight) {
  if (backward_families(64).size() == 1) GTEST_SKIP() << "the GPU is no Hopper";
  std::vector<check::Spec> specs;
  for (const auto& [dim, dim_v] : {std::pair<int64_t, int64_t>{64, 64}, {64, 128}, {128, 96}}) {
    // Of whole tiles of keys without a mask walks are rotated.
    check::Spec& spec = specs.emplace_back(several_tiles(dim, dim_v, dim == 64 ? 300 : 384));
    spec.causal = dim == 64;
    spec.dtype = dim == dim_v ? bfloat16 : float16;
  }
  in_parallel(static_cast<int64_t>(specs.size()),
              [&](int64_t n) { expect_tiles_right(specs[static_cast<size_t>(n)]); });
}

/// Clusters of two blocks: Q and V on both sides of 128 columns, keys that end in either block's
/// half of a tile, behind which numbers may be NaN, and sums in order.
TEST(HopperBackward, OfWideHeadsIsRight) {
  if (backward_families(64).size() == 1) GTEST_SKIP() << "the GPU is no Hopper";
  std::vector<check::Spec> specs;
  for (const auto& [dim, dim_v] :
       {std::pair<int64_t, int64_t>{256, 256}, {192, 128}, {64, 256}, {136, 200}}) {
    check::Spec& packed = specs.emplace_back(
        problem({.batch = 3, .heads_q = 4, .heads_k = 2, .dim = dim, .dim_v = dim_v}));
    pack(packed.rows, {70, 0, 130}, 3);
    pack(packed.keys, {150, 20, 100}, 5);
    packed.causal = dim > 64;
    packed.dtype = dim == 256 ? bfloat16 : float16;
    check::Spec& used = specs.emplace_back(several_tiles(dim, dim_v));
    use(used.keys, {130, 0});
    use(used.rows, {290, 65});
    if (dim < 192) continue;
    check::Spec& ordered = specs.emplace_back(several_tiles(dim, dim_v));
    ordered.deterministic = dim == 256;
    ordered.batch_invariant = dim == 192;
    ordered.causal = dim == 256;
  }
  for (check::Spec& spec : specs) {
    spec.backward = true;
    spec.family = Family::sm90;
  }
  expect_right(specs);
}

/// Where all rows see all keys, walks begin at different rows, of heads that share the keys, too.
TEST(HopperBackward, RotatedWalksAreRight) {
  if (backward_families(64).size() == 1) GTEST_SKIP() << "the GPU is no Hopper";
  std::vector<check::Spec> specs;
  for (const int64_t dim : {64, 128, 256}) {
    check::Spec& spec = specs.emplace_back(
        problem({.batch = 1, .rows = 330, .keys = 384, .heads_q = 4, .heads_k = 2, .dim = dim}));
    spec.backward = true;
    spec.family = Family::sm90;
  }
  check::Spec& empty = specs.emplace_back(
      problem({.batch = 2, .rows = 330, .keys = 384, .heads_q = 4, .heads_k = 2, .dim = 64}));
  empty.backward = true;
  empty.family = Family::sm90;
  use(empty.rows, {0, 330});  // no row sees the keys of the first sequence
  expect_right(specs);
}

/// A launch leaves its counter of tiles as the next one may find it.
TEST(HopperBackward, TheSameWorkspaceServesAgain) {
  if (backward_families(64).size() == 1) GTEST_SKIP() << "the GPU is no Hopper";
  check::Spec spec = several_tiles(128, 128);
  spec.family = Family::sm90;
  spec.deterministic = true;
  const check::Case c(spec);
  GpuPlace place;
  run(c, place);
  place.run(c.memory(), [&](const check::Place::Here& here) {
    const BackwardArgs args = here(c.backward_args());
    const Options options = here(c.options());
    const Plan plan = plan_backward(args, options);
    const GpuMemory workspace(plan.workspace_bytes());
    for (int turn = 0; turn < 3; ++turn) {
      plan.run(args, options, workspace.data(), workspace.size(), here.stream());
    }
  });
  const auto exact =
      reference::backward(c.backward_args(), c.options(), reference::Rounding::exact);
  const auto plain =
      reference::backward(c.backward_args(), c.options(), reference::Rounding::plain);
  expect_close("dq", c.dq.values(), spec.dtype, spec.dtype, {exact.dq, plain.dq, exact.dq_abs});
}

/// Sequences that overlap have more tiles of rows than the kernel before the main one works on. The
/// counters of the others are 0 all the same: what the workspace held makes no block wait for ever.
TEST(HopperBackward, LengthsThatLieMakeNoBlockWait) {
  if (backward_families(64).size() == 1) GTEST_SKIP() << "the GPU is no Hopper";
  constexpr int64_t batch = 8, tokens = 1280;
  for (const int64_t dim : {64, 128}) {
    check::Spec spec = problem({.batch = batch, .dim = dim});
    std::vector<int64_t> lengths(batch, 0);
    lengths[0] = tokens;
    pack(spec.rows, lengths);
    pack(spec.keys, std::vector<int64_t>(batch, 32));
    spec.backward = true;
    spec.family = Family::sm90;
    check::Case c(spec);
    GpuPlace place;
    run(c, place);
    std::vector<int32_t> overlapping(batch + 1, 0);
    for (size_t i = 1; i < overlapping.size(); i += 2) overlapping[i] = tokens;
    c.cu_seqlens_q = check::IntArray<int32_t>(overlapping);
    place.run(c.memory(), [&](const check::Place::Here& here) {
      const BackwardArgs args = here(c.backward_args());
      const Options options = here(c.options());
      const Plan plan = plan_backward(args, options);
      const GpuMemory workspace(plan.workspace_bytes());
      const std::vector<int32_t> ones(plan.workspace_bytes() / 4, 1);
      workspace.upload(0, ones.data(), 4 * ones.size());
      plan.run(args, options, workspace.data(), workspace.size(), here.stream());
    });
  }
}

/// Each configuration that `llm-backward` ships for Hopper, in a fixed order, too, and some
/// head_dims between. A block has several tiles.
std::vector<check::Spec> shipped() {
  const int64_t sms = cuda::limits_of(cuda::device(0)).sm_count;
  const int64_t batch = std::max<int64_t>(sms / 3, 2);
  std::vector<check::Spec> specs;
  for (const auto& [dim, dim_v] :
       {std::pair<int64_t, int64_t>{64, 64}, {96, 96}, {128, 128}, {192, 128}, {256, 256}}) {
    for (const DType dtype : {bfloat16, float16}) {
      for (int options = 0; options < 8; ++options) {
        const bool causal = (options & 1) != 0, packed = (options & 2) != 0;
        constexpr int64_t rows = 290;
        const int64_t keys = causal ? 300 : 384;  // whole tiles: walks begin at different rows
        check::Spec& spec = specs.emplace_back(problem({.batch = batch,
                                                        .rows = rows,
                                                        .keys = keys,
                                                        .heads_q = 4,
                                                        .heads_k = 2,
                                                        .dim = dim,
                                                        .dim_v = dim_v}));
        spec.dtype = dtype;
        spec.backward = true;
        spec.family = Family::sm90;
        spec.causal = causal;
        spec.deterministic = (options & 4) != 0;
        if (packed) {
          pack(spec.rows, std::vector(static_cast<size_t>(batch), rows), 3);
          pack(spec.keys, std::vector(static_cast<size_t>(batch), keys), 3);
        }
      }
    }
  }
  return specs;
}

/// A hang is rare, and so is a tile that is read too early: one in some hundred launches, in a
/// former kernel for 256 columns. Blocks take several tiles. dQ keeps its bits in order only;
/// else a sum that is lost, added twice or not cleared shows in its size.
TEST(HopperBackward, LaunchesKeepTheirBits) {
  if (backward_families(64).size() == 1) GTEST_SKIP() << "the GPU is no Hopper";
  const std::vector<check::Spec> specs = shipped();
  in_parallel(static_cast<int64_t>(specs.size()), [&](int64_t n) {
    const check::Case c(specs[static_cast<size_t>(n)]);
    EXPECT_EQ(launches_that_differ(c, {{&c.dk}, {&c.dv}, {&c.dq, c.spec.deterministic}}), 0)
        << c.spec.text();
  });
}

}  // namespace
}  // namespace fa::test
