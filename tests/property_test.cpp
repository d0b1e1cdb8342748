// Random problems on one instruction set: property_test TARGET COUNT SEED [FAILURES].
// TARGET is a name of fa::cpu_targets(), or "best"; exits with 77 where the CPU lacks it. "cuda" is
// the first such device, with 8 configurations. Ends with FAILURES wrong problems.
#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>

#include "check/check.hpp"
#include "check/cuda_accelerator.hpp"
#include "fa/attention.hpp"

namespace {

constexpr int skipped = 77;

bool has_target(const std::string& wanted) {
  std::istringstream names(fa::cpu_targets());
  for (std::string name; names >> name;) {
    if (name == wanted) return true;
  }
  return false;
}

void print(const fa::check::Report& report, uint64_t seed) {
  fmt::print("{}\n{} problems on {}; {}\n", report.pair_table, report.problems, fa::cpu_target(),
             report.extras);
  fmt::print("largest error / bound {:.3f}: {} of seed {} index {}: {}\n", report.worst_ratio,
             report.worst_tensor, seed, report.worst_index, report.worst_problem);
  for (const std::string& pair : report.missed) fmt::print("never met: {}\n", pair);
  for (const std::string& pair : report.wrongly_accepted) fmt::print("must be refused: {}\n", pair);
  fmt::print("{} failures\n", report.failures.size());
  for (const fa::check::Failure& failure : report.failures) {
    fmt::print("FAILED seed {} index {}: {}\n{}", seed, failure.index, failure.problem,
               failure.what);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    fmt::print("usage: property_test TARGET|best COUNT SEED [FAILURES]\n");
    return 2;
  }
  const std::string target = argv[1];
  fa::check::CheckConfig config;
  std::unique_ptr<fa::check::Accelerator> device;
  if (target == "cuda") {
    device = fa::check::cuda_accelerator(0);
    config.accelerator = device.get();
    config.offer = &device->offer();
    config.configurations = 8;
  } else if (target != "best") {
    if (!has_target(target)) {
      fmt::print("skipped: this CPU lacks {}; it has {}\n", target, fa::cpu_targets());
      return skipped;
    }
    // Read when the library first needs it, which is after this.
    setenv("FA_CPU_TARGET", target.c_str(), 1);
  }
  config.count = std::stoll(argv[2]);
  config.seed = std::stoull(argv[3]);
  if (argc == 5) config.most_failures = std::stoll(argv[4]);
  const fa::check::Report report = fa::check::run(config);
  print(report, config.seed);
  return report.passed() ? 0 : 1;
}
