// Peak memory of a pass: within its tensors and what the plan said, and linear in the sequence.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "fa/attention.hpp"

namespace {

/// Bytes of this process's memory: its peak so far ("VmHWM:") or now ("VmRSS:").
int64_t status_bytes(const char* field) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind(field, 0) == 0) return std::stoll(line.substr(line.find(':') + 1)) * 1024;
  }
  return -1;
}

struct Bytes {
  int64_t tensors;
  int64_t planned;
  int64_t peak;
};

/// Two key heads, four query heads of 64, causal; measured in a child, whose peak is its own.
Bytes measure(int64_t seqlen, bool backward) {
  int pipe_ends[2];
  EXPECT_EQ(pipe(pipe_ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    Bytes bytes{};
    const int64_t before = status_bytes("VmRSS:");
    const int64_t rows = 4 * seqlen * 64;
    const int64_t keys = 2 * seqlen * 64;
    std::vector<float> q(rows, 0.5f), k(keys, 0.25f), v(keys, 1.0f), out(rows), lse(4 * seqlen);
    const auto q_view = [&](std::vector<float>& x) {
      return fa::View(x.data(), fa::float32, {1, seqlen, 4, 64});
    };
    const auto k_view = [&](std::vector<float>& x) {
      return fa::View(x.data(), fa::float32, {1, seqlen, 2, 64});
    };
    const fa::View lse_view(lse.data(), fa::float32, {1, 4, seqlen});
    fa::Options options;
    options.causal = true;
    const fa::View q_ = q_view(q), k_ = k_view(k), v_ = k_view(v), out_ = q_view(out);
    if (!backward) {
      bytes.tensors = 4 * (2 * rows + 2 * keys + 4 * seqlen);
      bytes.planned = fa::plan_forward({q_, k_, v_, out_, lse_view}, options).workspace_bytes();
      fa::forward(q_, k_, v_, out_, lse_view, options);
    } else {
      std::vector<float> dout(rows, 1.0f), dq(rows), dk(keys), dv(keys);
      const fa::View dout_ = q_view(dout), dq_ = q_view(dq), dk_ = k_view(dk), dv_ = k_view(dv);
      bytes.tensors = 4 * (4 * rows + 4 * keys + 4 * seqlen);
      const fa::BackwardArgs args{dout_, q_, k_, v_, out_, lse_view, dq_, dk_, dv_};
      bytes.planned = fa::plan_backward(args, options).workspace_bytes();
      fa::backward(args, options);
    }
    bytes.peak = status_bytes("VmHWM:") - before;
    const bool written = write(pipe_ends[1], &bytes, sizeof bytes) == sizeof bytes;
    _exit(written ? 0 : 1);
  }
  Bytes bytes{};
  EXPECT_EQ(read(pipe_ends[0], &bytes, sizeof bytes), static_cast<ssize_t>(sizeof bytes));
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
  return bytes;
}

// OpenMP's threads, their stacks and allocator arenas.
constexpr int64_t slack = 4 << 20;

class Memory : public testing::TestWithParam<bool> {};

TEST_P(Memory, StaysWithinThePlanAndGrowsLinearly) {
  std::vector<Bytes> all;
  for (const int64_t seqlen : {1024, 2048, 4096, 8192, 16384}) {
    const Bytes bytes = measure(seqlen, GetParam());
    std::printf("%s seqlen %6ld: tensors %6.1f MB, planned %6.1f MB, peak %6.1f MB\n",
                GetParam() ? "backward" : "forward ", static_cast<long>(seqlen),
                bytes.tensors * 1e-6, bytes.planned * 1e-6, bytes.peak * 1e-6);
    EXPECT_GT(bytes.peak, 0);
    EXPECT_LE(bytes.peak, bytes.tensors + bytes.planned + slack);
    all.push_back(bytes);
  }
  // Forward: K and V widened and padded, and 2 MB of scratch a thread. Backward: one fp32 dQ for
  // each of at most 8 chunks, delta and LSE, and 4 MB a thread.
  const long threads = sysconf(_SC_NPROCESSORS_ONLN);
  const int64_t rows = 4 * 16384, keys = 2 * 16384;
  const int64_t most = GetParam() ? 4 * rows * (8 * 64 + 2) + (threads * 4 << 20)
                                  : 4 * keys * 2 * (64 + 16) * 2 + (threads * 2 << 20);
  EXPECT_LE(all.back().planned, most);
  // Once all chunks are in use (4k), twice the sequence is at most twice the workspace.
  for (size_t i = 3; i < all.size(); ++i) EXPECT_LE(all[i].planned, 2 * all[i - 1].planned);
}

INSTANTIATE_TEST_SUITE_P(Passes, Memory, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "Backward" : "Forward"; });

}  // namespace
