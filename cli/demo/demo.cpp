#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "commands.hpp"
#include "common/exit.hpp"
#include "common/option_flags.hpp"
#include "demo/growth.hpp"
#include "demo/model_run.hpp"
#include "fa/attention.hpp"
#include "support/commit.hpp"
#include "support/io/text_output.hpp"
#include "support/measure/machine.hpp"
#include "support/measure/peak.hpp"
#include "support/progress.hpp"
#include "support/text.hpp"

namespace fa::cli {
namespace {

constexpr const char* demo_examples =
    R"(Every number is measured or computed here and now. Errors are relative Frobenius errors against
float64; the plain formula rounds each step to the same dtype. GFLOP/s as the paper counts:
4 Sq Sk D H, half of it when causal, backward 2.5 times that.

Examples:
  fa demo
  fa demo --length 4096 --max-growth 32768
  fa demo --seed 7 --json demo.json)";

struct DemoFlags {
  int threads = 0;
  int64_t length = 0;
  int64_t max_growth = 16384;
  uint64_t seed = 1;
  std::string json;
};

struct DemoResult {
  support::FmaPeak peak;
  support::Arithmetic arithmetic = support::Arithmetic::widened;  ///< bfloat16's
  double bfloat16_peak = 0;                                       ///< operations per second of that
  std::vector<ModelResult> models;
  std::vector<GrowthRow> growth;
  double seconds = 0;
};

void print_machine(const DemoResult& result) {
  const support::FmaPeak& peak = result.peak;
  fmt::print("FlashAttention.cpp {} on {}, {}, {}\n", version(), support::cpu_model(),
             support::count_text(peak.threads, "thread"), cpu_target());
  fmt::print("measured peak: {:.0f} GFLOP/s of float32 multiply-adds ({}, {:.2f} GHz implied)\n",
             peak.flops / 1e9, peak.target, peak.implied_ghz());
  if (result.arithmetic != support::Arithmetic::widened) {
    fmt::print("               {:.0f} GFLOP/s of {}\n", result.bfloat16_peak / 1e9,
               to_text(result.arithmetic));
  }
  fmt::print("\n");
  std::fflush(stdout);
}

/// Lengths from 1k, doubling.
std::vector<int64_t> growth_lengths(int64_t most) {
  std::vector<int64_t> lengths;
  for (int64_t length = 1024; length <= most; length *= 2) lengths.push_back(length);
  return lengths;
}

std::vector<ModelResult> run_models(const DemoFlags& flags) {
  std::vector<ModelResult> results;
  support::Progress progress(static_cast<int64_t>(models.size()));
  for (const Model& model : models) {
    progress.show(static_cast<int64_t>(results.size()), model.name);
    results.push_back(run_model(model, flags.length > 0 ? flags.length : model.demo_length,
                                flags.threads, flags.seed));
  }
  return results;
}

std::vector<GrowthRow> run_growth(const DemoFlags& flags) {
  const auto lengths = growth_lengths(flags.max_growth);
  std::vector<GrowthRow> rows;
  support::Progress progress(static_cast<int64_t>(lengths.size()));
  for (const int64_t length : lengths) {
    progress.show(static_cast<int64_t>(rows.size()), "length " + support::length_text(length));
    rows.push_back(measure_growth(length));
  }
  return rows;
}

/// Prints each part as it is done.
DemoResult run_parts(const DemoFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  DemoResult result;
  const int threads = flags.threads > 0 ? flags.threads : support::default_threads();
  result.peak = support::measure_fma_peak(threads, 0.5);
  result.arithmetic = support::arithmetic_of(bfloat16);
  result.bfloat16_peak = result.arithmetic == support::Arithmetic::widened
                             ? result.peak.flops
                             : support::measure_peak(result.arithmetic, threads, 0.5);
  print_machine(result);
  result.models = run_models(flags);
  for (ModelResult& model : result.models) {
    model.peak = model.model.dtype == bfloat16 ? result.bfloat16_peak : result.peak.flops;
  }
  print_speed(result.models);
  print_errors(result.models);
  result.growth = run_growth(flags);
  if (!result.growth.empty()) print_growth(result.growth);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

std::string json_text(const DemoResult& result) {
  nlohmann::json json{{"version", version()},        {"commit", support::commit},
                      {"cpu", support::cpu_model()}, {"threads", result.peak.threads},
                      {"target", cpu_target()},      {"peak_flops_per_second", result.peak.flops},
                      {"seconds", result.seconds}};
  json["bfloat16_peak_flops_per_second"] = result.bfloat16_peak;
  json["bfloat16_arithmetic"] = to_text(result.arithmetic);
  for (const ModelResult& model : result.models) {
    json["models"].push_back(to_json(model));
  }
  for (const GrowthRow& row : result.growth) json["growth"].push_back(to_json(row));
  return json.dump(2) + "\n";
}

int run(const DemoFlags& flags) {
  io::TextOutput json(flags.json);
  const DemoResult result = run_parts(flags);
  for (const ModelResult& model : result.models) {
    if (model.right()) continue;
    fmt::print("\nWRONG: {}\n{}", model.model.name, to_text(model.verdicts));
  }
  const bool right = std::ranges::all_of(result.models, &ModelResult::right);
  fmt::print("\n{} ({:.0f} s)\n",
             right ? "demo passed: every error is within its bound"
                   : "demo FAILED: an error is beyond its bound",
             result.seconds);
  if (json.wanted()) json.write(json_text(result));
  return right ? exit_right : exit_wrong_result;
}

}  // namespace

Command add_demo(const support::Flags& program) {
  auto flags = std::make_shared<DemoFlags>();
  const support::Flags app = program.command(
      "demo", "Attention of famous models: checked, timed, and its memory against the plain way");
  app.value("--threads", flags->threads, threads_help).within(0, 1024);
  app.value("--length", flags->length, "sequence length of every model; 0: one for each")
      .within(0, int64_t{1} << 20);
  app.value("--max-growth", flags->max_growth, "longest sequence of the second table")
      .within(0, int64_t{1} << 20);
  app.value("--seed", flags->seed, "seed of tensors and samples").unsigned_number();
  app.value("--json", flags->json, "write all numbers to FILE").type_name("FILE");
  app.footer(demo_examples);
  return {app, [flags] { return run(*flags); }};
}

}  // namespace fa::cli
