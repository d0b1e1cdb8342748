#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "commands.hpp"
#include "common/exit.hpp"
#include "common/progress.hpp"
#include "common/text.hpp"
#include "fa/attention.hpp"

namespace fa::cli {
namespace {

constexpr const char* examples =
    R"(CUDA kernels, compiled ahead into one file; programs that run with FA_BUNDLE naming it need no NVRTC
and no cache. No GPU is needed. docs/cuda.md says more.

Examples:
  fa compile --arch sm_90a -o kernels.fab
  fa compile --arch sm_80,sm_86,sm_90a --preset llm -o kernels.fab --threads 8
  fa compile --arch sm_80 --list)";

struct CompileFlags {
  std::vector<std::string> archs;
  std::string preset = "llm";
  std::string out;
  bool list = false;
  int threads = 0;
};

int run(const CompileFlags& flags) {
  const std::vector<std::string> kernels = bundle_kernels(flags.preset, flags.archs);
  if (flags.list) {
    for (const std::string& kernel : kernels) fmt::print("{}\n", kernel);
    return exit_right;
  }
  if (flags.out.empty()) throw UsageError("-o: name the bundle that is to be written");
  const auto begin = std::chrono::steady_clock::now();
  Progress progress(static_cast<int64_t>(kernels.size()));
  const BundleSize made =
      compile_bundle(flags.out, flags.preset, flags.archs, flags.threads,
                     [&](int64_t done, int64_t) { progress.show(done, "kernels"); });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  fmt::print("{}: {} kernels, {}, in {}\n", flags.out, made.kernels,
             bytes_text(static_cast<double>(made.bytes)), seconds_text(seconds.count()));
  return exit_right;
}

}  // namespace

Command add_compile(CLI::App& program) {
  auto flags = std::make_shared<CompileFlags>();
  CLI::App* app = program.add_subcommand("compile", "CUDA kernels ahead of their use, in a bundle");
  app->add_option("--arch", flags->archs, "architectures, separated by commas: sm_80, sm_90a ...")
      ->delimiter(',')
      ->required();
  app->add_option("--preset", flags->preset, "which kernels")->capture_default_str();
  app->add_option("-o,--out", flags->out, "the bundle to be written");
  app->add_flag("--list", flags->list, "print the kernels instead");
  app->add_option("--threads", flags->threads, "kernels at a time; 0: one for each core")
      ->check(CLI::Range(0, 1024));
  app->footer(examples);
  return {app, [flags] { return run(*flags); }};
}

}  // namespace fa::cli
