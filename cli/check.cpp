#include "check/check.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "commands.hpp"
#include "common/device_flag.hpp"
#include "common/exit.hpp"
#include "common/option_flags.hpp"
#include "support/io/text_output.hpp"
#include "support/progress.hpp"
#include "support/text.hpp"

namespace fa::cli {
namespace {

constexpr const char* check_examples =
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
  int64_t most_failures = check::CheckConfig{}.most_failures;
  bool own_allocations = false;
  bool hash = false;
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
  config.most_failures = flags.most_failures;
  if (accelerator != nullptr) {
    config.accelerator = accelerator;
    config.offer = &accelerator->offer();
    config.configurations = flags.configurations;
    config.allocation = flags.own_allocations ? check::Allocation::each : check::Allocation::arena;
  }
  return config;
}

std::string count_of(const std::vector<std::string>& pairs, const char* noun) {
  return support::count_text(static_cast<int64_t>(pairs.size()), noun);
}

void print_failures(const check::Report& report, const CheckFlags& flags) {
  for (const check::Failure& failure : report.failures) {
    fmt::print("WRONG: {}\n{}\n{}\n\n", replay(flags, failure.index), failure.problem,
               failure.what);
  }
  for (const std::string& pair : report.missed) {
    fmt::print("allowed, but in no problem together: {}\n", pair);
  }
  if (!report.never_asked.empty()) {
    fmt::print("--configs {} leaves out {} of options; more configurations have them\n",
               flags.configurations, count_of(report.never_asked, "allowed pair"));
  }
  for (const std::string& pair : report.wrongly_accepted) {
    fmt::print("must be refused, but was not: {}\n", pair);
  }
}

/// The findings of a run, for scripts.
std::string json_text(const check::Report& report, const CheckFlags& flags) {
  const nlohmann::json json{{"device", flags.device},
                            {"seed", flags.seed},
                            {"problems", report.problems},
                            {"failures", report.failures.size()},
                            {"worst_ratio", report.worst_ratio},
                            {"worst_problem", report.worst_problem},
                            {"output_hash", fmt::format("{:016x}", report.output_hash)},
                            {"pairs_missed", report.missed},
                            {"pairs_never_asked", report.never_asked},
                            {"not_refused", report.wrongly_accepted},
                            {"prepare_seconds", report.prepare_seconds},
                            {"seconds", report.seconds},
                            {"passed", report.passed()}};
  return json.dump(2) + "\n";
}

check::Report run_problems(check::CheckConfig config) {
  support::Progress progress(config.count);
  config.progress = [&](int64_t done) { progress.show(done); };
  return check::run(config);
}

void print_verdict(const check::Report& report) {
  if (report.passed()) {
    fmt::print("check passed: {} right\n",
               report.problems == 1 ? "the problem is"
                                    : fmt::format("all {} problems are", report.problems));
    return;
  }
  std::vector<std::string> why;
  if (!report.failures.empty()) {
    why.push_back(fmt::format("{} of {} wrong", report.failures.size(),
                              support::count_text(report.problems, "problem")));
  }
  if (!report.missed.empty()) why.push_back(count_of(report.missed, "pair") + " never met");
  if (!report.wrongly_accepted.empty()) {
    why.push_back(count_of(report.wrongly_accepted, "pair") + " not refused");
  }
  fmt::print("check FAILED: {}\n", fmt::join(why, ", "));
}

int run(const CheckFlags& flags) {
  io::TextOutput json(flags.json);
  const std::unique_ptr<check::Accelerator> device = accelerator_of(flags.device);
  const check::CheckConfig config = configure(flags, device.get());
  if (flags.index >= 0) fmt::print("{}\n", check::describe(config, flags.index));
  const check::Report report = run_problems(config);
  if (device != nullptr) {
    fmt::print("{} prepared in {:.1f} s, {} run in {:.1f} s\n",
               support::count_text(std::min(flags.configurations, config.count), "configuration"),
               report.prepare_seconds, support::count_text(report.problems, "problem"),
               report.seconds);
  }
  if (flags.pairs) fmt::print("{}\n", report.pair_table);
  if (!report.extras.empty()) fmt::print("{}\n", report.extras);
  if (flags.hash) fmt::print("hash of the outputs' bits: {:016x}\n", report.output_hash);
  if (report.worst_index >= 0) {
    fmt::print("largest error: {:.3f} of its bound{}\n", report.worst_ratio,
               report.worst_tensor.empty()
                   ? ""
                   : fmt::format(", {} of problem {}", report.worst_tensor, report.worst_index));
    if (flags.index < 0) {
      fmt::print("that problem: {}\nreplay it with: {}\n", report.worst_problem,
                 replay(flags, report.worst_index));
    }
  }
  print_failures(report, flags);
  print_verdict(report);
  if (json.wanted()) json.write(json_text(report, flags));
  return report.passed() ? exit_right : exit_wrong_result;
}

}  // namespace

Command add_check(const support::Flags& program) {
  auto flags = std::make_shared<CheckFlags>();
  const support::Flags app = program.command("check", "Random problems against float64");
  const support::Flag count =
      app.value("--count", flags->count, "how many problems").within(1, int64_t{1} << 40);
  app.value("--seed", flags->seed, "seed of the problems").unsigned_number();
  app.value("--index", flags->index, "only this problem")
      .within(0, int64_t{1} << 40)
      .excludes(count);
  app.value("--threads", flags->threads, "problems at a time; 0: one for each core")
      .within(0, 1024);
  app.on("--pairs", flags->pairs, "print how often each pair of options met");
  add_device_flag(app, flags->device, "cpu, or cuda[:N], for what that offers");
  app.value("--configs", flags->configurations,
            "configurations, each with kernels of its own, that problems share on a device")
      .within(1, int64_t{1} << 20);
  app.value("--failures", flags->most_failures, "end with so many wrong problems")
      .within(1, int64_t{1} << 40);
  app.on("--own-allocations", flags->own_allocations,
         "each tensor in device memory of its own: for compute-sanitizer");
  app.on("--hash", flags->hash,
         "print a hash of the outputs' bits: builds that compute the same print the same");
  app.value("--json", flags->json, "also write the findings to this file");
  app.footer(check_examples);
  return {app, [flags] { return run(*flags); }};
}

}  // namespace fa::cli
