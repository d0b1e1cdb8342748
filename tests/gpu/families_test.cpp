// Family sm90 beside sm80: other kernels, the same attention to rounding.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

struct Outputs {
  std::vector<double> out, lse;
};

/// Of the family's kernel, which the plan must name.
Outputs outputs_of(check::Spec spec, Family family, const std::string& name) {
  spec.family = family;
  const check::Case c(spec);
  GpuPlace place;
  EXPECT_NE(plan_text(c, place).find("\nfamily: " + name), std::string::npos) << spec.text();
  run(c, place);
  return {c.out.values(), c.lse.values()};
}

/// A problem of each width, each with options of its own; no length is a multiple of a tile's.
std::vector<check::Spec> problems() {
  std::vector<check::Spec> specs;
  const auto add = [&](int64_t dim, int64_t dim_v, DType dtype) -> check::Spec& {
    check::Spec& spec = specs.emplace_back(problem({.batch = 2,
                                                    .rows = 290,
                                                    .keys = 333,
                                                    .heads_q = 4,
                                                    .heads_k = 2,
                                                    .dim = dim,
                                                    .dim_v = dim_v}));
    spec.dtype = dtype;
    return spec;
  };
  add(64, 64, bfloat16).causal = true;
  check::Spec& window = add(96, 96, float16);
  window.window_left = 90;
  window.window_right = 5;
  window.softcap = 3;
  check::Spec& dropped = add(128, 128, bfloat16);
  dropped.causal = true;
  dropped.dropout_p = 0.2;
  check::Spec& biased = add(192, 128, float16);
  biased.tensors[check::Feature::bias] = {.shape = {1, 4, 290, 333}, .dtype = float16};
  check::Spec& packed = add(256, 256, bfloat16);
  pack(packed.rows, {150, 0, 130}, 3);
  pack(packed.keys, {200, 20, 100}, 5);
  packed.causal = true;
  packed.tensors[check::Feature::sinks] = {.shape = {4}};
  return specs;
}

TEST(Families, GiveTheSameToRounding) {
  if (backward_families(64).size() == 1) GTEST_SKIP() << "the GPU is no Hopper";
  const std::vector<check::Spec> specs = problems();
  in_parallel(static_cast<int64_t>(specs.size()), [&](int64_t n) {
    using reference::Rounding;
    const check::Spec& spec = specs[static_cast<size_t>(n)];
    SCOPED_TRACE(spec.text());
    const check::Case c(spec);
    const auto exact = reference::forward(c.forward_args(), c.options(), Rounding::exact);
    const auto plain = reference::forward(c.forward_args(), c.options(), Rounding::plain);
    const Outputs ampere = outputs_of(spec, Family::sm80, "sm80");
    const Outputs hopper = outputs_of(spec, Family::sm90, "sm90");
    expect_close("out", hopper.out, spec.dtype, spec.dtype, {ampere.out, plain.out, exact.out_abs});
    expect_close("lse", hopper.lse, float32, spec.dtype, {ampere.lse, plain.lse, exact.lse_abs});
  });
}

}  // namespace
}  // namespace fa::test
