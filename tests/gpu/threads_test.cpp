// Calls from any thread: one that has never used CUDA stays without a context.
#include <gtest/gtest.h>

#include <thread>

#include "cuda/runtime/device.hpp"
#include "cuda/runtime/kernel_store.hpp"
#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

cuda::CUcontext current_context() {
  cuda::CUcontext context = nullptr;
  cuda::check(cuda::driver().context_current(&context), "asking for the current context");
  return context;
}

struct Problem {
  GpuTensor q, k, v, out;
  explicit Problem(int64_t dim, DType dtype = bfloat16)
      : q(normal({2, 100, 4, dim}, dtype, 1)),
        k(normal({2, 150, 4, dim}, dtype, 2)),
        v(normal({2, 150, 4, dim}, dtype, 3)),
        out(q.shape(), dtype) {}
  std::vector<std::byte> run(Stream stream) const {
    out.poison();
    forward(q, k, v, out, {}, {}, stream);
    gpu().synchronize(stream);
    return out.bytes();
  }
};

TEST(Threads, OneWithoutAContextStaysSo) {
  const Problem problem(64);
  const GpuStream stream;
  const std::vector<std::byte> expected = problem.run(stream);
  std::thread([&] {
    EXPECT_EQ(current_context(), nullptr);
    EXPECT_EQ(problem.run(stream), expected);
    EXPECT_EQ(current_context(), nullptr);
    EXPECT_EQ(problem.run(nullptr), expected) << "on the default stream";
    EXPECT_EQ(current_context(), nullptr);
    EXPECT_NE(error_of([&] { forward(problem.q, problem.k, {}, problem.out, {}, {}, stream); }),
              "");
    EXPECT_EQ(current_context(), nullptr);
  }).join();
}

TEST(Threads, TheCurrentContextIsPutBack) {
  const Problem problem(64);
  const GpuStream stream;
  const std::vector<std::byte> expected = problem.run(stream);
  const cuda::CurrentContext own(0);
  const cuda::CUcontext before = current_context();
  EXPECT_NE(before, nullptr);
  EXPECT_EQ(problem.run(nullptr), expected);
  EXPECT_EQ(current_context(), before);
}

TEST(Threads, ThoseThatWantOneKernelMakeItOnce) {
  const Problem problem(152, float16);
  std::vector<GpuTensor> outs;
  for (int n = 0; n < 32; ++n) outs.emplace_back(problem.q.shape(), float16);
  const auto made = [] {
    const cuda::StoreCounters counters = cuda::kernel_store().counters();
    return counters.compiled + counters.from_disk + counters.from_bundle;
  };
  const int64_t before = made();
  in_parallel(32, [&](int64_t n) {
    const GpuStream stream;
    forward(problem.q, problem.k, problem.v, outs[static_cast<size_t>(n)], {}, {}, stream);
    stream.synchronize();
  });
  EXPECT_EQ(made() - before, 1);
  const GpuStream stream;
  const std::vector<std::byte> expected = problem.run(stream);
  for (const GpuTensor& out : outs) EXPECT_EQ(out.bytes(), expected);
}

TEST(Threads, ManyRunOnePlan) {
  const Problem problem(128);
  std::vector<GpuTensor> outs;
  for (int n = 0; n < 16; ++n) outs.emplace_back(problem.q.shape(), bfloat16);
  const Plan plan = plan_forward({problem.q, problem.k, problem.v, outs[0], {}});
  in_parallel(16, [&](int64_t n) {
    const GpuStream stream;
    const ForwardArgs args{problem.q, problem.k, problem.v, outs[static_cast<size_t>(n)], {}};
    for (int turn = 0; turn < 50; ++turn) plan.run(args, {}, nullptr, 0, stream);
    stream.synchronize();
  });
  const GpuStream stream;
  const std::vector<std::byte> expected = problem.run(stream);
  for (const GpuTensor& out : outs) EXPECT_EQ(out.bytes(), expected);
}

}  // namespace
}  // namespace fa::test
