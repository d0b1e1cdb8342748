// Plans: what they refuse, and what they take that was not there when they were made.
#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

#include "argument_case.hpp"
#include "fa/attention.hpp"

namespace {

using fa::Status;
using fa::Tensor;
using fa::test::Case;
using fa::test::expect_error;

/// Shapes and strides from all orders of magnitude: refused, or planned without an overflow (which
/// the undefined-behaviour sanitizer would tell).
TEST(Plans, OfWildShapesAreMadeOrRefused) {
  std::mt19937_64 random(3);
  const auto wild = [&] { return static_cast<int64_t>(random() >> random() % 64); };
  const auto pick = [&](std::initializer_list<int64_t> choices) {
    return choices.begin()[random() % choices.size()];
  };
  int64_t here = 0;
  int planned = 0;
  for (int n = 0; n < 30000; ++n) {
    const int64_t batch = pick({0, 1, 1, 2, wild()}), heads_k = pick({1, 1, 2, wild()});
    const int64_t heads_q = pick({heads_k, heads_k, 8 * (heads_k % 1000)}),
                  rows = pick({0, 1, 7, wild()});
    const int64_t keys = pick({0, 1, 300, wild()}), dim = pick({8, 64, 256});
    const auto view = [&](int64_t length, int64_t heads) {
      const auto sign = [&] { return random() % 2 == 0 ? wild() : -wild(); };
      void* data = random() % 4 != 0 ? nullptr : &here;
      fa::View view(data, fa::float32, {batch, length, heads, dim});
      if (random() % 4 == 0) {
        view =
            fa::View(data, fa::float32, {batch, length, heads, dim}, {sign(), sign(), sign(), 1});
      }
      if (random() % 2 == 0) view.byte_offset = static_cast<uint64_t>(wild());
      return view;
    };
    fa::Options options;
    options.num_threads = static_cast<int32_t>(pick({0, 1, 4096}));
    const fa::View q = view(rows, heads_q), k = view(keys, heads_k), v = view(keys, heads_k);
    const fa::View out = view(rows, heads_q);
    const fa::View lse(nullptr, fa::float32, {batch, heads_q, rows});
    try {
      (void)fa::plan_forward({q, k, v, out, {}}, options);
      ++planned;
      (void)fa::plan_backward(
          {out, q, k, v, out, lse, view(rows, heads_q), view(keys, heads_k), view(keys, heads_k)},
          options);
    } catch (const fa::Error& error) {
      ASSERT_NE(error.status(), Status::internal) << error.what();
    }
  }
  EXPECT_GT(planned, 1000);
}

TEST(Plans, RefuseWhatTheyCannotRun) {
  expect_error({Status::invalid_argument, {"plan:", "empty"}},
               [] { (void)fa::Plan().workspace_bytes(); });
  expect_error({Status::invalid_argument, {"plan:", "empty"}}, [] { fa::Plan().prepare(); });
  const Case c;
  const fa::Plan plan = fa::plan_forward(c.forward);
  std::vector<char> memory(plan.workspace_bytes() + 4096);
  void* workspace = memory.data() + 64 - reinterpret_cast<uintptr_t>(memory.data()) % 64;
  const fa::View out(workspace, fa::float32, {2, 3, 4, 24});
  fa::ForwardArgs args = c.forward;
  args.out = out;
  expect_error({Status::invalid_argument, {"out:", "shares memory with workspace"}},
               [&] { plan.run(args, {}, workspace, plan.workspace_bytes()); });
}

TEST(Plans, MadeWithoutDataTakeAnyAlignment) {
  Case c;
  std::vector<float> shifted(c.q.data.size() + 1, 1.0f);
  fa::ForwardArgs nothing = c.forward;
  for (Tensor* t : {&nothing.q, &nothing.k, &nothing.v, &nothing.out, &nothing.lse}) {
    t->data = nullptr;
  }
  const fa::Plan plan = fa::plan_forward(nothing, c.options);
  std::vector<char> room(plan.workspace_bytes() + 64);
  void* aligned = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) % 64;
  c.forward.q.data = shifted.data() + 1;
  EXPECT_NO_THROW(plan.run(c.forward, c.options, aligned, plan.workspace_bytes()));
}

TEST(Plans, KeepToTheirProblem) {
  Case c;
  const fa::Plan plan = fa::plan_forward(c.forward, c.options);
  std::vector<char> room(plan.workspace_bytes() + 64);
  void* aligned = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) % 64;
  const auto run = [&](const fa::Options& options, void* workspace, size_t bytes) {
    plan.run(c.forward, options, workspace, bytes);
  };
  EXPECT_NO_THROW(run(c.options, aligned, plan.workspace_bytes()));
  expect_error({Status::invalid_argument, {"workspace:", "needs"}},
               [&] { run(c.options, aligned, plan.workspace_bytes() - 1); });
  expect_error({Status::invalid_argument, {"workspace:", "multiple of 64"}},
               [&] { run(c.options, static_cast<char*>(aligned) + 4, plan.workspace_bytes()); });
  fa::Options causal = c.options;
  causal.causal = true;
  expect_error({Status::invalid_argument, {"plan:"}},
               [&] { run(causal, aligned, plan.workspace_bytes()); });
  expect_error({Status::invalid_argument, {"plan:", "pass"}},
               [&] { plan.run(c.backward, c.options, aligned, plan.workspace_bytes()); });
}

}  // namespace
