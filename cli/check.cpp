#include "check/check.hpp"

#include <fmt/format.h>

#include <memory>

#include "commands.hpp"
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
  fa check --seed 3 --index 1234)";

struct CheckFlags {
  int64_t count = 1000;
  uint64_t seed = 1;
  int64_t index = -1;
  int threads = 0;
  bool pairs = false;
};

std::string replay(const CheckFlags& flags, int64_t index) {
  return fmt::format("fa check --seed {} --index {}", flags.seed, index);
}

check::Report run_problems(const CheckFlags& flags) {
  const bool one = flags.index >= 0;
  check::CheckConfig config;
  config.count = one ? 1 : flags.count;
  config.seed = flags.seed;
  config.first = one ? flags.index : 0;
  config.threads = flags.threads;
  Progress progress(config.count);
  config.progress = [&](int64_t done) { progress.show(done); };
  return check::run(config);
}

void print_failures(const check::Report& report, const CheckFlags& flags) {
  for (const check::Failure& failure : report.failures) {
    fmt::print("WRONG: {}\n{}\n{}\n\n", replay(flags, failure.index), failure.problem,
               failure.what);
  }
  for (const std::string& pair : report.missed) fmt::print("never met: {}\n", pair);
  for (const std::string& pair : report.wrongly_accepted) {
    fmt::print("not refused: {}\n", pair);
  }
}

int run(const CheckFlags& flags) {
  if (flags.index >= 0) fmt::print("{}\n", check::describe(flags.seed, flags.index));
  const check::Report report = run_problems(flags);
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
  app->footer(examples);
  return {app, [flags] { return run(*flags); }};
}

}  // namespace fa::cli
