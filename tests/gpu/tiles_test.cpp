// Every tile that the plan may choose on this GPU: head_dims by lengths by masks, each with some
// other option that leaves the choice as it is.
#include <gtest/gtest.h>

#include <utility>

#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

TEST(Tiles, OfEveryHeadDimLengthAndMaskAreRight) {
  std::vector<check::Spec> specs;
  const std::vector<std::pair<int64_t, int64_t>> dims = {
      {32, 32},   {64, 64},   {96, 96},   {128, 128}, {192, 128}, {192, 192},
      {256, 256}, {384, 384}, {512, 256}, {512, 512}, {576, 512}};
  for (const auto& [dim, dim_v] : dims) {
    for (const int64_t keys : {200, 900, 1700, 3300}) {
      for (const bool causal : {false, true}) {
        const size_t n = specs.size();
        check::Spec& spec = specs.emplace_back(
            problem({.rows = 300, .keys = keys, .heads_q = 1, .dim = dim, .dim_v = dim_v}));
        spec.causal = causal;
        spec.dtype = n % 3 == 0 ? float16 : bfloat16;
        spec.lse = n % 5 != 0;
        if (n % 2 == 0) use(spec.keys, {keys - 37});
        if (n % 4 == 1) {
          spec.tensors[check::Feature::sinks] = {.shape = {1}};
        }
        spec.strided = n % 7 == 0;
      }
    }
  }
  expect_right(specs);
}

}  // namespace
}  // namespace fa::test
