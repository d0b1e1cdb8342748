// The kernels without one of their ways at a time, as bench/ablation times them, are right too.
#include <gtest/gtest.h>

#include "ablation/variants.hpp"
#include "cuda/launch/passes.hpp"
#include "gpu/gpu.hpp"
#include "problem/problem.hpp"

namespace fa::test {
namespace {

/// Several tiles of rows and many steps, with what an idea might get wrong.
std::vector<check::Spec> ablation_problems() {
  std::vector<check::Spec> specs;
  const auto add = [&](int64_t dim) -> check::Spec& {
    return specs.emplace_back(
        problem({.batch = 2, .rows = 420, .keys = 531, .heads_q = 4, .heads_k = 2, .dim = dim}));
  };
  for (const int64_t dim : {64, 128}) {
    add(dim);
    check::Spec& causal = add(dim);  // the first rows see no key
    causal.rows.seqlen = 600;
    causal.rows.extent = {600, 600};
    causal.causal = true;
    causal.dtype = float16;
    check::Spec& packed = add(dim);
    pack(packed.rows, {130, 400}, 9);
    pack(packed.keys, {7, 500}, 3);
    packed.dropout_p = 0.3;
    check::Spec& options = add(dim);
    use(options.rows, {420, 200});
    use(options.keys, {0, 531});
    options.tensors[check::Feature::sinks] = {.shape = {options.heads_q}};
    options.score_size = 8;  // rows take the slow path of the maximum
  }
  return specs;
}

void expect_variants_right(const check::Spec& spec) {
  using reference::Rounding;
  const check::Case c(spec);
  const auto exact = reference::forward(c.forward_args(), c.options(), Rounding::exact);
  const auto plain = reference::forward(c.forward_args(), c.options(), Rounding::plain);
  const uint64_t inputs = c.input_hash();
  const GpuLimits limits = cuda::limits_of(cuda::device(0));
  const Problem planned = validate(c.forward_args(), c.options(), Data::optional).problem;
  GpuPlace place;
  for (const bench::Variant& variant : bench::variants(planned, limits)) {
    SCOPED_TRACE(variant.name + ", " + spec.text());
    c.poison(false);
    place.run(c.memory(), [&](const check::Place::Here& here) {
      const Call call = validate(here(c.forward_args()), here(c.options()), Data::required);
      cuda::plan_forward(call.problem, variant.tuning)->run(call, here.stream());
    });
    const DType dtype = spec.dtype;
    expect_close("out", c.out.values(), dtype, dtype, {exact.out, plain.out, exact.out_abs});
    expect_close("lse", c.lse.values(), float32, dtype, {exact.lse, plain.lse, exact.lse_abs});
    EXPECT_TRUE(c.out.memory().intact() && c.lse.memory().intact());
    EXPECT_EQ(c.input_hash(), inputs);
  }
}

void expect_backward_variants_right(check::Spec spec) {
  using reference::Rounding;
  spec.backward = true;
  const check::Case c(spec);
  GpuPlace place;
  run(c, place);
  const BackwardArgs args = c.backward_args();
  const auto exact = reference::backward(args, c.options(), Rounding::exact);
  const auto plain = reference::backward(args, c.options(), Rounding::plain);
  const GpuLimits limits = cuda::limits_of(cuda::device(0));
  const Problem planned = validate(args, c.options(), Data::optional).problem;
  for (const bench::BackwardVariant& variant : bench::backward_variants(planned, limits)) {
    SCOPED_TRACE(variant.name + ", " + spec.text());
    c.poison(true);
    place.run(c.memory(), [&](const check::Place::Here& here) {
      const Call call = validate(here(c.backward_args()), here(c.options()), Data::required);
      cuda::plan_backward(call.problem, variant.tuning)->run(call, here.stream());
    });
    const DType dtype = spec.dtype;
    expect_close("dq", c.dq.values(), dtype, dtype, {exact.dq, plain.dq, exact.dq_abs});
    expect_close("dk", c.dk.values(), dtype, dtype, {exact.dk, plain.dk, exact.dk_abs});
    expect_close("dv", c.dv.values(), dtype, dtype, {exact.dv, plain.dv, exact.dv_abs});
  }
}

TEST(Ablation, WithoutOneOfItsWaysTheBackwardKernelIsRight) {
  std::vector<check::Spec> specs;
  for (const int64_t dim : {64, 128, 256}) {
    for (const bool causal : {false, true}) {
      check::Spec& spec = specs.emplace_back(
          problem({.batch = 2, .rows = 150, .keys = 170, .heads_q = 4, .heads_k = 2, .dim = dim}));
      spec.causal = causal;
      spec.dtype = causal ? float16 : bfloat16;
    }
  }
  in_parallel(static_cast<int64_t>(specs.size()),
              [&](int64_t n) { expect_backward_variants_right(specs[static_cast<size_t>(n)]); });
}

TEST(Ablation, WithoutTheStaleMaximumTheKernelIsRight) {
  const std::vector<check::Spec> specs = ablation_problems();
  in_parallel(static_cast<int64_t>(specs.size()),
              [&](int64_t n) { expect_variants_right(specs[static_cast<size_t>(n)]); });
}

}  // namespace
}  // namespace fa::test
