#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "commands.hpp"
#include "common/exit.hpp"
#include "fa/attention.hpp"
#include "support/io/held_signals.hpp"
#include "support/io/printed.hpp"
#include "support/io/text_output.hpp"
#include "support/progress.hpp"
#include "support/text.hpp"
#include "system/shown.hpp"

namespace fa::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* compile_examples =
    R"(CUDA kernels, compiled ahead into one file; programs that run with FA_BUNDLE naming it need no NVRTC
and no cache. No GPU is needed. docs/cuda.md says more.

Examples:
  fa compile --arch sm_90a -o kernels.fab
  fa compile --arch sm_80,sm_86,sm_90a --preset llm -o kernels.fab --threads 8
  fa compile --arch sm_90a -o kernels.fab --verbose
  fa compile --arch sm_80 --list)";

struct CompileFlags {
  std::vector<std::string> archs;
  std::string preset = "llm";
  std::string out;
  bool list = false;
  bool verbose = false;
  std::string json;
  int threads = 0;
};

std::set<std::string> words(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

/// Constants that all kernels of a name have are printed once, before the table.
void print_kernels(const std::vector<CompiledKernel>& kernels) {
  std::map<std::string, std::set<std::string>> common;
  for (const CompiledKernel& kernel : kernels) {
    const std::set<std::string> own = words(kernel.constants);
    const auto [found, fresh] = common.try_emplace(kernel.name, own);
    if (!fresh) std::erase_if(found->second, [&](const auto& word) { return !own.contains(word); });
  }
  for (const auto& [name, constants] : common) {
    if (!constants.empty()) fmt::print("{}: all with {}\n", name, fmt::join(constants, " "));
  }
  fmt::print("{:<7} {:<16} {:>7} {:>9} {:>8} {:>8} {:>9}  {}\n", "arch", "kernel", "threads",
             "registers", "spilled", "shared", "blocks/SM", "constants");
  for (const CompiledKernel& k : kernels) {
    std::string own;
    std::istringstream stream(k.constants);
    for (std::string word; stream >> word;) {
      if (!common[k.name].contains(word)) own += (own.empty() ? "" : " ") + word;
    }
    fmt::print("{:<7} {:<16} {:>7} {:>9} {:>8} {:>8} {:>9}  {}\n", k.arch, k.name, k.threads,
               k.registers, k.spill_bytes, k.shared_bytes, k.blocks_per_sm, own);
  }
}

std::string json_text(const std::vector<CompiledKernel>& kernels) {
  nlohmann::json json;
  for (const CompiledKernel& k : kernels) {
    json.push_back({{"arch", k.arch},
                    {"name", k.name},
                    {"constants", k.constants},
                    {"threads", k.threads},
                    {"registers", k.registers},
                    {"spill_bytes", k.spill_bytes},
                    {"shared_bytes", k.shared_bytes},
                    {"blocks_per_sm", k.blocks_per_sm},
                    {"code", k.code}});
  }
  return json.dump(2) + "\n";
}

std::vector<std::string> split_archs(const std::vector<std::string>& lists) {
  std::vector<std::string> archs;
  for (const std::string& list : lists) {
    std::istringstream stream(list + ",");
    for (std::string arch; std::getline(stream, arch, ',');) {
      if (arch.empty())
        throw UsageError(fmt::format("--arch: \"{}\" has an empty entry", system::shown(list)));
      archs.push_back(arch);
    }
  }
  return archs;
}

/// With --list nothing is compiled or written, and what is known of the kernels is their names.
void refuse_beside_list(const CompileFlags& flags) {
  const std::pair<const char*, bool> others[] = {
      {"--json", !flags.json.empty()}, {"--verbose", flags.verbose}, {"-o", !flags.out.empty()}};
  for (const auto& [name, given] : others) {
    if (given) {
      throw UsageError(fmt::format("{}: not with --list, which compiles and writes nothing", name));
    }
  }
}

/// The bundle's own check is the library's.
void check_json(const CompileFlags& flags) {
  if (flags.json.empty()) return;
  std::error_code error;
  const fs::path json = fs::weakly_canonical(flags.json, error);
  if (json == fs::weakly_canonical(flags.out, error) && !error) {
    throw UsageError(
        fmt::format("--json: {} is the bundle's file too (-o)", system::shown(flags.json)));
  }
}

int run(const CompileFlags& flags) {
  if (flags.list) refuse_beside_list(flags);
  const std::vector<std::string> archs = split_archs(flags.archs);
  const std::vector<std::string> kernels = bundle_kernels(flags.preset, archs);
  if (flags.list) {
    for (const std::string& kernel : kernels) fmt::print("{}\n", kernel);
    return exit_right;
  }
  if (flags.out.empty()) throw UsageError("-o: name the bundle that is to be written");
  check_json(flags);
  io::TextOutput json(flags.json);
  const auto begin = std::chrono::steady_clock::now();
  const BundleSize made = [&] {
    std::optional<support::Progress> progress(std::in_place, static_cast<int64_t>(kernels.size()));
    std::optional<io::HeldSignals> held;  // while the library writes the bundle, after the last one
    return compile_bundle(
        flags.out, flags.preset, archs, flags.threads, [&](int64_t done, int64_t total) {
          progress->show(done, "kernels");
          if (done < total) return;
          progress.reset();
          const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
          fmt::print("{} in {}\n", support::count_text(total, "kernel"),
                     support::seconds_text(seconds.count()));
          io::flush_printed();
          held.emplace();
        });
  }();
  if (flags.verbose) print_kernels(made.each);
  fmt::print("{}: {}\n", system::shown(flags.out),
             support::bytes_text(static_cast<double>(made.bytes)));
  if (json.wanted()) json.write(json_text(made.each));
  return exit_right;
}

}  // namespace

Command add_compile(const support::Flags& program) {
  auto flags = std::make_shared<CompileFlags>();
  const support::Flags app =
      program.command("compile", "CUDA kernels ahead of their use, in a bundle");
  app.value("--arch", flags->archs, "architectures, separated by commas: sm_80, sm_90a ...")
      .required();
  app.value("--preset", flags->preset, "which kernels: llm, llm-backward").show_default();
  app.value("-o,--out", flags->out, "the bundle to be written");
  app.on("--list", flags->list, "print the kernels instead; not with -o, --json, --verbose");
  app.on("--verbose", flags->verbose, "print what each kernel takes of the GPU");
  app.value("--json", flags->json, "also write that to this file");
  app.value("--threads", flags->threads, "kernels at a time; 0: one for each core").within(0, 1024);
  app.footer(compile_examples);
  return {app, [flags] { return run(*flags); }};
}

}  // namespace fa::cli
