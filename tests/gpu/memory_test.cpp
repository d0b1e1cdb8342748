// Memory beside the tensors: none but a counter of tiles, or where keys are split what the plan
// says.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cuda/launch/passes.hpp"
#include "cuda/runtime/device.hpp"
#include "gpu/driver_more.hpp"
#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

constexpr int64_t mebibyte = 1 << 20;
constexpr int64_t pool_step = 64 * mebibyte;  // in what steps, at most, a pool takes memory

int64_t free_bytes() { return static_cast<int64_t>(free_memory()); }

TEST(Memory, ALongCallTakesNone) {
  constexpr int64_t length = 16384, heads = 8;
  const GpuTensor q({1, length, heads, 64}, bfloat16), k({1, length, heads, 64}, bfloat16),
      v({1, length, heads, 64}, bfloat16), out({1, length, heads, 64}, bfloat16),
      lse({1, heads, length}, float32);
  for (const GpuTensor* t : {&q, &k, &v}) t->set([](int64_t n) { return (n % 7 - 3) / 4.0; });
  Options options;
  options.causal = true;
  const ForwardArgs args{q, k, v, out, lse};
  const Plan plan = plan_forward(args, options);
  EXPECT_LE(plan.workspace_bytes(), 16u);  // a counter, where blocks claim their tiles
  // The kernel itself, and the room for its registers, come with a short call of the same kind,
  // as does the pool's first memory.
  const GpuTensor few({1, 64, heads, 64}, bfloat16), few_out(few.shape(), bfloat16),
      few_lse({1, heads, 64}, float32);
  const GpuStream stream;
  forward(few, few, few, few_out, few_lse, options, stream);
  stream.synchronize();
  const int64_t before = free_bytes();
  forward(args, options, stream);
  stream.synchronize();
  EXPECT_LE(before - free_bytes(), mebibyte);
}

// A counter in it hands tiles out, whatever lies there and whatever a call has left there.
TEST(Workspace, MayHoldAnything) {
  // Each has two tiles or three: some blocks get more than one.
  const int64_t heads = cuda::limits_of(cuda::device(0)).sm_count / 2 + 1;
  for (const int64_t width : {64, 128, 256}) {
    const GpuTensor q = normal({1, 300, heads, width}, bfloat16, 1),
                    k = normal({1, 300, heads, width}, bfloat16, 2),
                    v = normal({1, 300, heads, width}, bfloat16, 3), out(q.shape(), bfloat16);
    Options options;
    options.causal = true;
    const ForwardArgs args{q, k, v, out, {}};
    const Plan plan = plan_forward(args, options);
    const GpuMemory workspace(std::max<size_t>(plan.workspace_bytes(), 64));
    const GpuStream stream;
    forward(args, options, stream);
    stream.synchronize();
    const std::vector<std::byte> right = out.bytes();
    for (const unsigned char byte : {0, 1, 0xff}) {
      workspace.fill(byte);
      for (int call = 0; call < 2; ++call) {
        out.poison();
        plan.run(args, options, workspace.data(), workspace.size(), stream);
        stream.synchronize();
        EXPECT_EQ(out.bytes(), right) << width << " " << int{byte} << " " << call;
      }
    }
    for (const double x : out.values()) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST(Memory, ASplitCallTakesItsPlansWorkspaceAndKeepsIt) {
  constexpr int64_t rows = 100, heads = 16, width = 256;
  const GpuTensor q = normal({1, rows, heads, width}, bfloat16, 1),
                  k = normal({1, 4000, 1, width}, bfloat16, 2),
                  v = normal({1, 4000, 1, width}, bfloat16, 3), out(q.shape(), bfloat16);
  const ForwardArgs args{q, k, v, out, {}};
  const Plan plan = plan_forward(args);
  const auto bytes = static_cast<int64_t>(plan.workspace_bytes());
  constexpr int64_t of_split = rows * heads * (width + 1) * 4;  // O and LSE in float32
  EXPECT_GE(bytes, 2 * of_split);
  EXPECT_EQ(bytes % of_split, 0);

  const GpuStream stream;
  forward(args, {}, stream);  // loads the kernels, makes the pool
  stream.synchronize();
  release_memory();
  const int64_t before = free_bytes();
  forward(args, {}, stream);
  stream.synchronize();
  const int64_t taken = before - free_bytes();
  EXPECT_GE(taken, bytes);
  EXPECT_LE(taken, bytes + pool_step);
  for (int turn = 0; turn < 100; ++turn) forward(args, {}, stream);
  stream.synchronize();
  EXPECT_LE(before - free_bytes(), taken + mebibyte);
  release_memory();
  EXPECT_LE(before - free_bytes(), mebibyte);
}

}  // namespace
}  // namespace fa::test
