// Errors of calls on a device: they name the argument, write nothing and harm nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

bool untouched(const GpuTensor& output) {
  const std::vector<std::byte> bytes = output.bytes();
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte x) { return x == std::byte{0xff}; });
}

/// A call whose arguments a test spoils one at a time.
struct Call {
  GpuTensor q{normal({2, 70, 4, 64}, bfloat16, 1)}, k{normal({2, 90, 2, 64}, bfloat16, 2)},
      v{normal({2, 90, 2, 64}, bfloat16, 3)};
  GpuTensor out{{2, 70, 4, 64}, bfloat16}, lse{{2, 4, 70}, float32};
  GpuStream stream;

  ForwardArgs args() const { return {q, k, v, out, lse}; }
  /// The error begins with `message`, which begins with the argument's name; the outputs are as
  /// they were.
  void expect_error(const std::string& message, const ForwardArgs& args,
                    const Options& options = {}) const {
    expect_error(message, [&] { forward(args, options, stream); });
  }
  void expect_error(const std::string& message, const std::function<void()>& call) const {
    out.poison();
    lse.poison();
    EXPECT_EQ(error_of(call).substr(0, message.size()), message);
    stream.synchronize();
    EXPECT_TRUE(untouched(out) && untouched(lse)) << message;
  }
  void expect_works() const {
    out.poison();
    forward(args(), {}, stream);
    stream.synchronize();
    for (const double x : out.values()) ASSERT_TRUE(std::isfinite(x));
  }
};

Tensor on(Tensor tensor, Device device) {
  tensor.device = device;
  return tensor;
}

TEST(Errors, TensorsOfOtherDevices) {
  const Call call;
  const Device cpu{1, 0}, other{2, 1}, none{2, 99};
  std::vector<float> host(4);
  ForwardArgs args = call.args();
  args.k = on(args.k, cpu);
  call.expect_error("k: lies on ", args);
  args = call.args();
  args.out = on(args.out, other);
  call.expect_error("out: lies on ", args);
  args = call.args();
  for (Tensor* t : {&args.q, &args.k, &args.v, &args.out, &args.lse}) *t = on(*t, none);
  call.expect_error("device: there is no CUDA device 99; there ", args);
  for (Tensor* t : {&args.q, &args.k, &args.v, &args.out, &args.lse}) *t = on(*t, {2, -1});
  call.expect_error("device: there is no CUDA device -1; there ", args);
  args.q = on(args.q, {4, 0});
  call.expect_error("q: lies on device type 4", args);
  Options options;
  const View sinks(host.data(), float32, {4});
  options.sinks = sinks;
  call.expect_error("sinks: lies on ", call.args(), options);
  call.expect_works();
}

TEST(Errors, NumbersThatADeviceDoesNotTake) {
  const Call call;
  const GpuTensor rows({2, 70, 4, 64}, float32), out({2, 70, 4, 64}, float32);
  const GpuTensor keys({2, 90, 2, 64}, float32), half({2, 90, 2, 64}, float16);
  call.expect_error("q: is float32; CUDA devices take float16 and bfloat16",
                    {rows, keys, keys, out, call.lse});
  ForwardArgs args = call.args();
  args.v = half;
  call.expect_error("v: has dtype float16", args);
  call.expect_works();
}

TEST(Errors, MissingAndOverlappingMemory) {
  const Call call;
  ForwardArgs args = call.args();
  args.v.data = nullptr;
  call.expect_error("v: has no data", args);
  args = call.args();
  args.out = args.q;
  call.expect_error("out: shares memory with q", args);
  call.expect_works();
}

TEST(Errors, WorkspacesOfAPlan) {
  const Call call;
  const GpuTensor q = normal({2, 1, 4, 64}, bfloat16, 4), out({2, 1, 4, 64}, bfloat16);
  const GpuTensor k = normal({2, 3000, 2, 64}, bfloat16, 5);
  const GpuTensor v = normal({2, 3000, 2, 64}, bfloat16, 6);
  const ForwardArgs args{q, k, v, out, {}};
  const Plan plan = plan_forward(args);
  const size_t bytes = plan.workspace_bytes();
  ASSERT_GT(bytes, 0u);
  const GpuMemory workspace(bytes + 64);
  const auto run = [&](void* data, size_t size) {
    return [&plan, &args, &call, data, size] { plan.run(args, {}, data, size, call.stream); };
  };
  call.expect_error("workspace: has ", run(workspace.data(), bytes - 1));
  call.expect_error("workspace: lies at ", run(workspace.data() + 32, bytes));
  call.expect_error("workspace: lies at ", run(nullptr, bytes));
  call.expect_error("workspace: shares memory with ", run(k.data(), bytes));
  call.expect_error("plan: was made for other tensors or options (seqlen differs)",
                    [&] { plan.run(call.args(), {}, workspace.data(), bytes, call.stream); });
  call.expect_works();
}

TEST(Errors, RowsThatAreAlignedToLessThanPlanned) {
  const Call call;
  const Plan plan = plan_forward(call.args());
  const GpuMemory shifted(call.k.bytes().size() + 2);
  ForwardArgs args = call.args();
  args.k.data = shifted.data();
  args.k.byte_offset = 2;
  call.expect_error("plan: was made for rows aligned to 16 bytes; these are to 2",
                    [&] { plan.run(args, {}, nullptr, 0, call.stream); });
  call.expect_works();
}

TEST(Errors, Merge) {
  const Call call;
  const GpuTensor a = normal({2, 70, 4, 64}, bfloat16, 7), lse_a = normal({2, 4, 70}, float32, 8);
  const auto merged = [&](const Tensor& b, const Tensor& lse_b) {
    return [&, b, lse_b] { merge(a, lse_a, b, lse_b, call.out, call.lse, call.stream); };
  };
  call.expect_error("out_b: lies on ", merged(on(a, {1, 0}), lse_a));
  call.expect_error("lse_b: has the shape ", merged(a, GpuTensor({2, 4, 69}, float32)));
  call.expect_error("device: there is no CUDA device 99; there ", [&] {
    const Device none{2, 99};
    merge(on(a, none), on(lse_a, none), on(a, none), on(lse_a, none), on(call.out, none),
          on(call.lse, none), call.stream);
  });
  call.expect_works();
}

}  // namespace
}  // namespace fa::test
