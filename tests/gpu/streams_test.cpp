// Work goes into the caller's stream, in its order.
#include <gtest/gtest.h>

#include <memory>

#include "gpu/gpu.hpp"

namespace fa::test {
namespace {

/// Calls that each read what the one before has written.
struct Chain {
  static constexpr int length = 12;
  GpuTensor k, v;
  std::vector<GpuTensor> x;  ///< x[n + 1] is the attention of x[n]

  explicit Chain(uint64_t seed, int64_t dim = 64)
      : k(normal({1, 700, 2, dim}, bfloat16, seed)), v(normal({1, 700, 2, dim}, bfloat16, ~seed)) {
    x.push_back(normal({1, 700, 8, dim}, bfloat16, seed + 1000));
    for (int n = 0; n < length; ++n) x.emplace_back(x[0].shape(), bfloat16);
  }

  /// Waits after each call, or after all.
  std::vector<std::byte> run(Stream stream, bool wait) const {
    for (int n = 1; n <= length; ++n) x[n].poison();
    Options options;
    options.causal = true;
    for (int n = 0; n < length; ++n) {
      forward(x[n], k, v, x[n + 1], {}, options, stream);
      if (wait) gpu().synchronize(stream);
    }
    gpu().synchronize(stream);
    return x[length].bytes();
  }
};

TEST(Streams, CallsOfAStreamRunInItsOrder) {
  const Chain a(1), b(2);
  const GpuStream stream;
  EXPECT_EQ(a.run(stream, false), a.run(stream, true));
  EXPECT_EQ(a.run(nullptr, false), a.run(stream, true)) << "on the default stream";
  EXPECT_NE(a.run(stream, true), b.run(stream, true));
}

TEST(Streams, ManyAtOnceDoNotDisturbEachOther) {
  constexpr int streams = 8;
  std::vector<std::unique_ptr<Chain>> chains;
  std::vector<std::vector<std::byte>> alone;
  const GpuStream one;
  for (int n = 0; n < streams; ++n) {
    chains.push_back(std::make_unique<Chain>(n, n % 2 == 0 ? 64 : 128));
    alone.push_back(chains.back()->run(one, true));
  }
  in_parallel(streams, [&](int64_t n) {
    const GpuStream own;
    for (int turn = 0; turn < 5; ++turn) {
      EXPECT_EQ(chains[static_cast<size_t>(n)]->run(own, false), alone[static_cast<size_t>(n)]);
    }
  });
}

/// Split keys take a workspace from one pool, which hands the memory on from stream to stream.
TEST(Streams, WorkspacesOfManyStreamsAreApart) {
  constexpr int64_t calls = 16;
  struct Problem {
    GpuTensor q, k, v, out;
    explicit Problem(uint64_t seed)
        : q(normal({2, 1, 4, 128}, bfloat16, seed)),
          k(normal({2, 2000, 4, 128}, bfloat16, seed + 100)),
          v(normal({2, 2000, 4, 128}, bfloat16, seed + 200)),
          out({2, 1, 4, 128}, bfloat16) {}
    std::vector<std::byte> run(Stream stream) const {
      out.poison();
      for (int n = 0; n < 20; ++n) forward(q, k, v, out, {}, {}, stream);
      gpu().synchronize(stream);
      return out.bytes();
    }
  };
  std::vector<std::unique_ptr<Problem>> problems;
  std::vector<std::vector<std::byte>> alone;
  const GpuStream one;
  for (int64_t n = 0; n < calls; ++n) {
    problems.push_back(std::make_unique<Problem>(static_cast<uint64_t>(n)));
    alone.push_back(problems.back()->run(one));
  }
  EXPECT_NE(alone[0], alone[1]);
  in_parallel(calls, [&](int64_t n) {
    const GpuStream own;
    EXPECT_EQ(problems[static_cast<size_t>(n)]->run(own), alone[static_cast<size_t>(n)]);
  });
}

}  // namespace
}  // namespace fa::test
