// CUDA graphs: a call is captured, and its replays read what the tensors hold by then.
#include <gtest/gtest.h>

#include "cuda/runtime/device.hpp"
#include "gpu/driver_more.hpp"
#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

/// The work that `calls` put into a stream, captured in the strictest mode: a call that allocates,
/// loads or waits breaks the capture, unless it has relaxed its thread.
class Graph {
 public:
  Graph(const GpuStream& stream, const std::function<void()>& calls) : stream_(stream) {
    const cuda::CurrentContext context(0);
    cuda::check(driver_more().capture_begin(queue(), capture_mode_global), "beginning a capture");
    try {
      calls();
    } catch (...) {
      driver_more().capture_end(queue(), &graph_);
      throw;
    }
    cuda::check(driver_more().capture_end(queue(), &graph_), "ending a capture");
    cuda::check(driver_more().graph_instantiate(&executable_, graph_, 0), "making a graph");
  }
  ~Graph() {
    const cuda::CurrentContext context(0);
    if (executable_ != nullptr) driver_more().graph_executable_destroy(executable_);
    if (graph_ != nullptr) driver_more().graph_destroy(graph_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void replay() const {
    const cuda::CurrentContext context(0);
    cuda::check(driver_more().graph_launch(executable_, queue()), "launching a graph");
    stream_.synchronize();
  }

 private:
  CUstream queue() const {
    const Stream stream = stream_;
    return static_cast<CUstream>(stream);
  }

  const GpuStream& stream_;
  CUgraph graph_ = nullptr;
  CUgraphExec executable_ = nullptr;
};

struct Tensors {
  GpuTensor q, k, v, out, expected;
  Tensors(int64_t rows, int64_t keys, int64_t dim)
      : q(normal({2, rows, 4, dim}, bfloat16, 1)),
        k(normal({2, keys, 2, dim}, bfloat16, 2)),
        v(normal({2, keys, 2, dim}, bfloat16, 3)),
        out({2, rows, 4, dim}, bfloat16),
        expected({2, rows, 4, dim}, bfloat16) {}
};

/// Replays with other contents of q give what a call gives.
void expect_replays(const Graph& graph, const Tensors& t, const Options& options,
                    const GpuStream& stream) {
  for (const uint64_t seed : {7, 8, 9}) {
    check::Random random(seed);
    t.q.set([&](int64_t) { return random.normal(); });
    t.out.poison();
    graph.replay();
    t.expected.poison();
    forward(t.q, t.k, t.v, t.expected, {}, options, stream);
    stream.synchronize();
    EXPECT_EQ(t.out.bytes(), t.expected.bytes());
  }
}

TEST(Graph, APreparedPlanIsCapturedWithItsWorkspace) {
  for (const int64_t rows : {200, 1}) {  // the second splits its keys
    const Tensors t(rows, 3000, 80);
    Options options;
    options.softcap = 20;
    options.causal = true;  // tiles are claimed from the workspace where blocks stay
    const ForwardArgs args{t.q, t.k, t.v, t.out, {}};
    const Plan plan = plan_forward(args, options);
    plan.prepare();
    const GpuMemory workspace(plan.workspace_bytes());
    const GpuStream stream;
    const Graph graph(stream,
                      [&] { plan.run(args, options, workspace.data(), workspace.size(), stream); });
    expect_replays(graph, t, options, stream);
  }
}

/// The first call of its kind: kernels are compiled and loaded while the stream is captured. With
/// split keys the graph allocates its own workspace.
TEST(Graph, ACallThatNobodyPreparedIsCaptured) {
  for (const int64_t rows : {200, 1}) {
    const Tensors t(rows, 3000, 88);
    Options options;
    options.softcap = 21;
    const GpuStream stream;
    const Graph graph(stream, [&] { forward(t.q, t.k, t.v, t.out, {}, options, stream); });
    expect_replays(graph, t, options, stream);
  }
}

TEST(Graph, DropoutDrawsAnewFromItsState) {
  const Tensors t(130, 140, 64);
  const GpuTensor state({2}, int64);
  Options options;
  options.dropout_p = 0.5;
  options.dropout_state = state;
  const GpuStream stream;
  state.set_integers({1, 0});
  const Graph graph(stream, [&] { forward(t.q, t.k, t.v, t.out, {}, options, stream); });
  std::vector<std::vector<std::byte>> draws;
  for (const int64_t offset : {0, 1, 2, 0}) {
    state.set_integers({1, offset});
    t.out.poison();
    graph.replay();
    draws.push_back(t.out.bytes());
    Options numbers;
    numbers.dropout_p = 0.5;
    numbers.dropout_seed = 1;
    numbers.dropout_offset = static_cast<uint64_t>(offset);
    forward(t.q, t.k, t.v, t.expected, {}, numbers, stream);
    stream.synchronize();
    EXPECT_EQ(draws.back(), t.expected.bytes());
  }
  EXPECT_NE(draws[0], draws[1]);
  EXPECT_NE(draws[1], draws[2]);
  EXPECT_EQ(draws[0], draws[3]);
}

/// Lengths are the device's: a cache that grows between replays.
TEST(Graph, LengthsAreReadByTheReplay) {
  const Tensors t(1, 700, 64);
  const GpuTensor used({2}, int32);
  Options options;
  options.seqused_k = used;
  const GpuStream stream;
  used.set_integers({1, 2});
  const Graph graph(stream, [&] { forward(t.q, t.k, t.v, t.out, {}, options, stream); });
  std::vector<std::vector<std::byte>> steps;
  for (const int64_t length : {3, 300, 700}) {
    used.set_integers({length, length - 2});
    graph.replay();
    steps.push_back(t.out.bytes());
    forward(t.q, t.k, t.v, t.expected, {}, options, stream);
    stream.synchronize();
    EXPECT_EQ(steps.back(), t.expected.bytes());
  }
  EXPECT_NE(steps[0], steps[1]);
  EXPECT_NE(steps[1], steps[2]);
}

}  // namespace
}  // namespace fa::test
