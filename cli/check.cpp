#include "check/check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "commands.hpp"
#include "common/device_flag.hpp"
#include "common/exit.hpp"
#include "common/option_flags.hpp"
#include "common/progress.hpp"

namespace fa::cli {
namespace {

constexpr const char* examples =
    R"(Random problems, all options crossed, each compared with the float64 reference; a problem is the whole
of its seed and index. Right is an error of at most its bound (docs/numerics.md).

Examples:
  fa check
  fa check --count 20000 --seed 3 --pairs
  fa check --seed 3 --index 1234
  fa check --device cuda --count 3000)";

struct CheckFlags {
  int64_t count = 1000;
  uint64_t seed = 1;
  int64_t index = -1;
  int threads = 0;
  bool pairs = false;
  std::string device = "cpu";
  int64_t configurations = 120;
  bool own_allocations = false;
  std::string json;
};

std::string replay(const CheckFlags& flags, int64_t index) {
  std::string device;
  if (flags.device != "cpu") {
    device = fmt::format(" --device {} --configs {}", flags.device, flags.configurations);
  }
  return fmt::format("fa check --seed {} --index {}{}", flags.seed, index, device);
}

check::CheckConfig configure(const CheckFlags& flags, check::Accelerator* accelerator) {
  const bool one = flags.index >= 0;
  check::CheckConfig config;
  config.count = one ? 1 : flags.count;
  config.seed = flags.seed;
  config.first = one ? flags.index : 0;
  config.threads = flags.threads;
  if (accelerator != nullptr) {
    config.accelerator = accelerator;
    config.offer = &accelerator->offer();
    config.configurations = flags.configurations;
    config.allocation = flags.own_allocations ? check::Allocation::each : check::Allocation::arena;
  }
  return config;
}

void print_failures(const check::Report& report, const CheckFlags& flags) {
  for (const check::Failure& failure : report.failures) {
    fmt::print("WRONG: {}\n{}\n{}\n\n", replay(flags, failure.index), failure.problem,
               failure.what);
  }
  for (const std::string& pair : report.missed) fmt::print("never met: {}\n", pair);
  if (!report.never_asked.empty()) {
    fmt::print("too few configurations for {} pairs of options\n", report.never_asked.size());
  }
  for (const std::string& pair : report.wrongly_accepted) {
    fmt::print("not refused: {}\n", pair);
  }
}

/// What a script reads of a run.
void write_json(const check::Report& report, const CheckFlags& flags) {
  const nlohmann::json json{{"device", flags.device},
                            {"seed", flags.seed},
                            {"problems", report.problems},
                            {"failures", report.failures.size()},
                            {"worst_ratio", report.worst_ratio},
                            {"worst_problem", report.worst_problem},
                            {"pairs_missed", report.missed},
                            {"pairs_never_asked", report.never_asked},
                            {"not_refused", report.wrongly_accepted},
                            {"prepare_seconds", report.prepare_seconds},
                            {"seconds", report.seconds},
                            {"passed", report.passed()}};
  std::ofstream file(flags.json);
  file << json.dump(2) << "\n";
  if (!file) throw std::runtime_error(fmt::format("--json: cannot write {}", flags.json));
}

int run(const CheckFlags& flags) {
  const std::unique_ptr<check::Accelerator> device = accelerator_of(flags.device);
  check::CheckConfig config = configure(flags, device.get());
  if (flags.index >= 0) fmt::print("{}\n", check::describe(config, flags.index));
  Progress progress(config.count);
  config.progress = [&](int64_t done) { progress.show(done); };
  const check::Report report = check::run(config);
  if (!flags.json.empty()) write_json(report, flags);
  if (device != nullptr) {
    fmt::print("{} configurations prepared in {:.1f} s, {} problems in {:.1f} s\n",
               std::min(flags.configurations, config.count), report.prepare_seconds,
               report.problems, report.seconds);
  }
  if (flags.pairs) fmt::print("{}\n", report.pair_table);
  if (!report.extras.empty()) fmt::print("{}\n", report.extras);
  if (report.worst_index >= 0) {
    fmt::print("worst: {} of problem {}, error / bound {:.3f}\n", report.worst_tensor,
               report.worst_index, report.worst_ratio);
    if (flags.index < 0) {
      fmt::print("{}\nreplay: {}\n", report.worst_problem, replay(flags, report.worst_index));
    }
  }
  print_failures(report, flags);
  if (!report.passed()) {
    fmt::print("check FAILED: {} of {} problems are wrong\n", report.failures.size(),
               report.problems);
    return exit_wrong_result;
  }
  fmt::print("check passed: {} problems are right\n", report.problems);
  return exit_right;
}

}  // namespace

Command add_check(CLI::App& program) {
  auto flags = std::make_shared<CheckFlags>();
  CLI::App* app = program.add_subcommand("check", "Random problems against float64");
  CLI::Option* count = app->add_option("--count", flags->count, "how many problems")
                           ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  app->add_option("--seed", flags->seed, "seed of the problems")->check(unsigned_number());
  app->add_option("--index", flags->index, "only this problem")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->excludes(count);
  app->add_option("--threads", flags->threads, "problems at a time; 0: one for each core")
      ->check(CLI::Range(0, 1024));
  app->add_flag("--pairs", flags->pairs, "print how often each pair of options met");
  app->add_option("--device", flags->device, "cpu, or cuda[:N], for what that offers")
      ->check(device_name());
  app->add_option("--configs", flags->configurations,
                  "configurations, each with kernels of its own, that problems share on a device")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app->add_flag("--own-allocations", flags->own_allocations,
                "each tensor in device memory of its own: for compute-sanitizer");
  app->add_option("--json", flags->json, "also write the findings to this file");
  app->footer(examples);
  return {app, [flags] { return run(*flags); }};
}

}  // namespace fa::cli
