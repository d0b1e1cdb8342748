#include "demo/model_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "support/io/array.hpp"
#include "support/random.hpp"
#include "support/text.hpp"
#include "verify/verify.hpp"

namespace fa::cli {
namespace {

using check::relative_limit;

/// The shortest of three runs, or of two where one takes half a second.
template <typename Pass>
double shortest(const Pass& pass) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  double total = 0;
  for (int run = 0; run < 3 && (run < 2 || total < 1); ++run) {
    const auto start = Clock::now();
    pass();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = run == 0 ? seconds : std::min(best, seconds);
    total += seconds;
  }
  return best;
}

io::Array random_tensor(const Model& model, int64_t seqlen, int64_t heads, uint64_t seed,
                        uint64_t stream) {
  io::Array array(model.dtype, {1, seqlen, heads, model.head_dim});
  support::fill_normal(array, seed, stream);
  return array;
}

}  // namespace

double ModelResult::flops(bool backward) const {
  return attention_flops(1, static_cast<double>(model.heads_q), static_cast<double>(seqlen),
                         static_cast<double>(seqlen), static_cast<double>(model.head_dim), true,
                         backward);
}

bool ModelResult::right() const {
  return std::ranges::all_of(verdicts, [](const Verdict& v) {
    return v.right() && v.error() < relative_limit(v.dtype());
  });
}

ModelResult run_model(const Model& model, int64_t seqlen, int threads, uint64_t seed) {
  const auto random = [&](int64_t heads, uint64_t stream) {
    return random_tensor(model, seqlen, heads, seed, stream);
  };
  const io::Array q = random(model.heads_q, 1);
  const io::Array k = random(model.heads_k, 2);
  const io::Array v = random(model.heads_k, 3);
  const io::Array dout = random(model.heads_q, 4);
  const io::Array out(model.dtype, q.shape());
  const io::Array lse(float32, {1, model.heads_q, seqlen});
  const io::Array dq(model.dtype, q.shape());
  const io::Array dk(model.dtype, k.shape());
  const io::Array dv(model.dtype, v.shape());
  const BackwardArgs args{dout.tensor(), q.tensor(),  k.tensor(),  v.tensor(), out.tensor(),
                          lse.tensor(),  dq.tensor(), dk.tensor(), dv.tensor()};
  Options options;
  options.causal = true;
  options.num_threads = threads;

  ModelResult result;
  result.model = model;
  result.seqlen = seqlen;
  result.forward_seconds =
      shortest([&] { forward({args.q, args.k, args.v, args.out, args.lse}, options); });
  result.backward_seconds = shortest([&] { backward(args, options); });
  release_memory();
  result.verdicts = verify_sample({args, options}, {.seed = seed});
  return result;
}

void print_speed(const std::vector<ModelResult>& results) {
  fmt::print("Causal attention of one sequence\n\n{:<45} {:^26} {:^26}\n", "", "forward",
             "backward");
  fmt::print("{:<15} {:>12} {:>9} {:>6} {:>10} {:>8} {:>6} {:>10} {:>8} {:>6}\n", "model",
             "heads q/k x d", "dtype", "length", "time", "GFLOP/s", "peak", "time", "GFLOP/s",
             "peak");
  for (const ModelResult& r : results) {
    const Model& m = r.model;
    fmt::print("{:<15} {:>13} {:>9} {:>5}", m.name,
               fmt::format("{}/{} x {}", m.heads_q, m.heads_k, m.head_dim),
               support::dtype_text(m.dtype), support::length_text(r.seqlen));
    for (const bool backward : {false, true}) {
      const double rate = r.flops(backward) / r.seconds(backward);
      fmt::print(" {:>10} {:>8.1f} {:>5.0f}%", support::seconds_text(r.seconds(backward)),
                 rate / 1e9, 100 * rate / r.peak);
    }
    fmt::print("\n");
  }
  fmt::print("peak: share of the measured peak of the dtype's own arithmetic\n");
}

void print_errors(const std::vector<ModelResult>& results) {
  fmt::print(
      "\nRelative error against float64 on random heads and rows (in brackets: the plain "
      "formula's, in the same dtype)\n\n{:<15} {:>9}",
      "model", "dtype");
  for (const Verdict& v : results.front().verdicts) fmt::print(" {:^18}", v.tensor());
  fmt::print("\n");
  for (const ModelResult& r : results) {
    fmt::print("{:<15} {:>9}", r.model.name, support::dtype_text(r.model.dtype));
    for (const Verdict& v : r.verdicts) {
      fmt::print("  {:.1e} ({:.1e})", v.error(), v.plain_error());
    }
    fmt::print("{}\n", r.right() ? "" : "  WRONG");
  }
}

nlohmann::json to_json(const ModelResult& r) {
  nlohmann::json json{{"model", r.model.name},
                      {"heads_q", r.model.heads_q},
                      {"heads_k", r.model.heads_k},
                      {"head_dim", r.model.head_dim},
                      {"dtype", support::dtype_text(r.model.dtype)},
                      {"seqlen", r.seqlen},
                      {"right", r.right()}};
  for (const bool backward : {false, true}) {
    const double seconds = r.seconds(backward);
    json[backward ? "backward" : "forward"] = {
        {"seconds", seconds},
        {"flops_per_second", r.flops(backward) / seconds},
        {"share_of_peak", r.flops(backward) / seconds / r.peak}};
  }
  for (const Verdict& v : r.verdicts) {
    json["errors"][v.tensor()] = {
        {"ours", v.error()}, {"plain", v.plain_error()}, {"error_over_bound", v.ratio()}};
  }
  return json;
}

}  // namespace fa::cli
