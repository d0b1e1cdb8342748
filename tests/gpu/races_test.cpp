// A race shows as a run whose bits differ: a thousand runs of each problem, all of them at once so
// that they disturb each other, into poisoned outputs with canaries around every tensor.
#include <gtest/gtest.h>

#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

std::vector<check::Spec> chosen() {
  std::vector<check::Spec> specs = plain_and_packed();
  const auto add = [&](const Extents& extents) -> check::Spec& {
    return specs.emplace_back(problem(extents));
  };
  add({.rows = 50, .keys = 211, .heads_q = 4, .dim = 576, .dim_v = 512}).causal = true;
  add({.batch = 2, .rows = 3, .keys = 4001, .heads_q = 8, .heads_k = 2, .dim = 128});  // split

  check::Spec& sinks = add({.batch = 2, .rows = 1, .keys = 3000, .heads_q = 2, .dim_v = 256});
  sinks.tensors[check::Feature::sinks] = {.shape = {2}};

  check::Spec& options = add({.batch = 2, .rows = 190, .keys = 230, .heads_q = 4, .heads_k = 1});
  options.dtype = float16;
  options.softcap = 5;
  options.tensors[check::Feature::alibi] = {.shape = {4}};
  options.tensors[check::Feature::bias] = {.shape = {1, 4, 190, 230}};
  options.tensors[check::Feature::sinks] = {.shape = {4}};
  options.score_size = 8;  // rows take the slow path of the maximum

  // Where groups of warps take turns, the slow path reads K again while the other group goes on.
  for (const int64_t dim : {128, 192, 256}) {
    check::Spec& turns =
        add({.rows = 300, .keys = dim == 192 ? 700 : 3300, .heads_q = 4, .dim = dim});
    turns.causal = true;
    turns.dtype = float16;
    turns.score_size = 30;
  }
  return specs;
}

std::vector<std::vector<std::byte>> results(const check::Case& c) {
  std::vector<std::vector<std::byte>> all;
  for (const check::Output& output : c.outputs(false))
    all.push_back(output.array->memory().content());
  return all;
}

TEST(Races, AThousandRunsGiveTheSameBits) {
  constexpr int repeats = 1000;
  const std::vector<check::Spec> specs = chosen();
  in_parallel(static_cast<int64_t>(specs.size()), [&](int64_t n) {
    const check::Case c(specs[static_cast<size_t>(n)]);
    GpuPlace place;
    run(c, place);
    const auto first = results(c);
    int different = 0;
    for (int turn = 1; turn < repeats; ++turn) {
      c.poison(false);
      run(c, place);
      different += results(c) != first;
    }
    EXPECT_EQ(different, 0) << "of " << repeats << ": " << c.spec.text();
  });
}

/// The same, right as well as repeatable.
TEST(Races, TheChosenProblemsAreRight) { expect_right(chosen()); }

/// Small ones of each kind of loop, for compute-sanitizer, whose racecheck had not got through
/// those above in two minutes: one group of warps, turns, turns with the slow path of the maximum,
/// split keys.
void expect_small_ones_right(Family family) {
  std::vector<check::Spec> specs;
  specs.push_back(problem({.rows = 70, .keys = 150, .heads_q = 1, .dim = 128}));
  specs.push_back(problem({.rows = 140, .keys = 200, .heads_q = 1, .dim = 64}));
  specs.back().window_left = 70;
  specs.push_back(problem({.rows = 140, .keys = 150, .heads_q = 1, .dim = 256}));
  specs.back().dtype = float16;
  specs.back().score_size = 30;
  specs.push_back(problem({.rows = 2, .keys = 1300, .heads_q = 2, .dim = 64}));
  // One after the other: racecheck loses track of launches from several threads.
  for (check::Spec& spec : specs) {
    spec.family = family;
    expect_right({spec});
  }
}

TEST(Races, SmallProblemsOfSm80AreRight) { expect_small_ones_right(Family::sm80); }

TEST(Races, SmallProblemsOfTheGpusFamilyAreRight) { expect_small_ones_right(Family::automatic); }

}  // namespace
}  // namespace fa::test
