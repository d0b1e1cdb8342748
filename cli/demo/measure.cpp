// `fa measure`: one pass in a process of its own, so that its peak memory can be told.
#include <fmt/format.h>
#include <malloc.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "demo/growth.hpp"
#include "demo/quadratic.hpp"
#include "support/io/array.hpp"
#include "support/measure/memory.hpp"
#include "support/random.hpp"

namespace fa::cli {
namespace {

struct MeasureFlags {
  bool plain = false;
  bool backward = false;
  int64_t seqlen = 1024;
};

/// All inputs and outputs of both passes. The plain way reads them as [heads][seqlen][head_dim],
/// the library as [1, seqlen, heads, head_dim]: the numbers are random either way.
class Tensors {
 public:
  explicit Tensors(int64_t seqlen) {
    for (io::Array* array : {&dout, &q, &k, &v, &out, &dq, &dk, &dv}) {
      *array = io::Array(float32, {1, seqlen, growth_heads, growth_head_dim});
      support::fill_normal(*array, 1, ++streams_);
    }
    lse = io::Array(float32, {1, growth_heads, seqlen});
    support::fill_normal(lse, 1, 0);
  }
  BackwardArgs args() const {
    return {dout.tensor(), q.tensor(),  k.tensor(),  v.tensor(), out.tensor(),
            lse.tensor(),  dq.tensor(), dk.tensor(), dv.tensor()};
  }
  io::Array dout, q, k, v, out, lse, dq, dk, dv;

 private:
  uint64_t streams_ = 0;
};

Options causal() {
  Options options;
  options.causal = true;
  return options;
}

void run_forward(const BackwardArgs& a) { forward({a.q, a.k, a.v, a.out, a.lse}, causal()); }

/// Peak memory after the first run, seconds of the second, whose pages are there already. Where the
/// pages are few, a run of seconds is not repeated.
template <typename Pass>
nlohmann::json measure_pass(const support::PeakMemory& memory, const Pass& pass) {
  using Clock = std::chrono::steady_clock;
  const auto timed = [&] {
    const auto start = Clock::now();
    pass();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  constexpr int64_t few = 256 << 20;  // bytes, whose pages cost less than 0.1 s
  double seconds = timed();
  const auto growth = memory.growth();
  if (seconds < 1 || !growth || *growth > few) seconds = timed();
  nlohmann::json result;
  result["seconds"] = seconds;
  result["bytes"] = growth ? nlohmann::json(*growth) : nlohmann::json();
  return result;
}

nlohmann::json measure_ours(const MeasureFlags& flags) {
  const Tensors t(flags.seqlen);
  const BackwardArgs args = t.args();
  {  // a small problem wakes the threads, whose stacks are not to be counted
    const Tensors small(64);
    run_forward(small.args());
    backward(small.args(), causal());
  }
  if (flags.backward) run_forward(args);
  release_memory();
  auto result = measure_pass(support::PeakMemory(), [&] {
    if (flags.backward) {
      backward(args, causal());
    } else {
      run_forward(args);
    }
  });
  result["told"] =
      flags.backward
          ? plan_backward(args, causal()).workspace_bytes()
          : plan_forward({args.q, args.k, args.v, args.out, args.lse}, causal()).workspace_bytes();
  return result;
}

/// A training step's P, kept from forward to backward, is memory of the plain way in both passes.
nlohmann::json measure_plain(const MeasureFlags& flags) {
  Tensors t(flags.seqlen);
  const PlainShape shape{growth_heads, flags.seqlen, growth_head_dim};
  const auto matrices = [&] { return io::Array(float32, {shape.scores()}); };
  const auto run = [&](io::Array& p) {
    plain_forward(shape, t.q.as<float>(), t.k.as<float>(), t.v.as<float>(), p.as<float>(),
                  t.out.as<float>());
  };
  const support::PeakMemory memory;
  io::Array p = matrices();
  if (!flags.backward) return measure_pass(memory, [&] { run(p); });
  run(p);
  io::Array ds = matrices();
  return measure_pass(memory, [&] {
    plain_backward(shape, t.dout.as<float>(), t.q.as<float>(), t.k.as<float>(), t.v.as<float>(),
                   t.out.as<float>(), p.as<float>(), ds.as<float>(), t.dq.as<float>(),
                   t.dk.as<float>(), t.dv.as<float>());
  });
}

int run(const MeasureFlags& flags) {
  // Memory that is freed goes back to the system, and is not taken for memory that was never used.
  mallopt(M_MMAP_THRESHOLD, 1 << 16);
  fmt::print("{}\n", (flags.plain ? measure_plain(flags) : measure_ours(flags)).dump());
  return 0;
}

}  // namespace

Command add_measure(const support::Flags& program) {
  auto flags = std::make_shared<MeasureFlags>();
  const support::Flags app = program.command("measure", "One pass of the demo's growing problem");
  app.hide();
  app.on("--plain", flags->plain);
  app.on("--backward", flags->backward);
  app.value("--seqlen", flags->seqlen).within(32, int64_t{1} << 20);
  return {app, [flags] { return run(*flags); }};
}

}  // namespace fa::cli
