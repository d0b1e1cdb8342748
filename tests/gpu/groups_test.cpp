// Few queries of many heads that share keys: a tile of family sm90 holds the rows of all of them
// side by side.
#include <gtest/gtest.h>

#include <string>

#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

bool names_sm90() { return backward_families(64).size() > 1; }

/// Groups that fill a tile's rows and groups that do not, with each option that such a tile has.
std::vector<check::Spec> grouped_problems() {
  std::vector<check::Spec> specs;
  const auto add = [&](int64_t rows, int64_t keys, int64_t group, int64_t dim,
                       int64_t dim_v = 0) -> check::Spec& {
    return specs.emplace_back(problem({.batch = 2,
                                       .rows = rows,
                                       .keys = keys,
                                       .heads_q = 2 * group,
                                       .heads_k = 2,
                                       .dim = dim,
                                       .dim_v = dim_v}));
  };
  add(1, 700, 8, 128);
  add(5, 300, 7, 64).dtype = float16;  // 3 rows of 192 are left over
  check::Spec& split = add(2, 3000, 5, 256);
  split.batch = split.heads_k = 1;
  split.heads_q = 5;
  split.causal = true;
  split.tensors[check::Feature::sinks] = {.shape = {5}};
  add(30, 200, 4, 128).causal = true;
  add(40, 260, 5, 72, 136).causal = true;  // two tiles
  add(1, 90, 100, 96);
  check::Spec& window = add(9, 400, 6, 192, 128);
  window.window_left = 50;
  window.window_right = 3;
  window.softcap = 2;
  check::Spec& sinks = add(3, 500, 8, 64);
  sinks.tensors[check::Feature::sinks] = {.shape = {sinks.heads_q}};
  sinks.causal = true;
  check::Spec& used = add(6, 400, 3, 128);
  use(used.rows, {6, 2});
  use(used.keys, {0, 399});
  check::Spec& packed = add(0, 0, 7, 128);
  pack(packed.rows, {3, 20}, 2);
  pack(packed.keys, {600, 31}, 5);
  packed.causal = true;
  packed.strided = true;
  return specs;
}

TEST(Groups, SideBySideAreRight) { expect_right(grouped_problems()); }

TEST(Groups, ShareATile) {
  GpuPlace place;
  for (const check::Spec& spec : grouped_problems()) {
    if (!names_sm90()) GTEST_SKIP() << "the GPU is no Hopper";
    const std::string text = plan_text(check::Case(spec), place);
    EXPECT_NE(text.find(" heads side by side"), std::string::npos) << spec.text() << text;
  }
}

}  // namespace
}  // namespace fa::test
