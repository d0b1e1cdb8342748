#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <new>
#include <system_error>
#include <vector>

#include "commands.hpp"
#include "common/exit.hpp"
#include "common/standard_descriptors.hpp"
#include "fa/attention.hpp"
#include "support/io/error.hpp"
#include "system/shown.hpp"

namespace fa::cli {
namespace {

constexpr const char* description =
    "Exact attention, forward and backward, in memory linear in the sequence.\n"
    "Exit code: 0 right, 1 a wrong result, 2 wrong usage, or a file that cannot be read or "
    "written.";

/// Flushes stdout first, so that the message comes last where both streams go to one place.
int fail(const std::string& what, int code) {
  std::fflush(stdout);
  // Not fmt's print, which throws when stderr is full too.
  std::fputs(fmt::format("fa: {}\n", what).c_str(), stderr);
  return code;
}

int run_command(const Command& command) {
  try {
    return command.run();
  } catch (const Error& error) {
    return fail(error.what(),
                error.status() == Status::internal ? exit_wrong_result : exit_wrong_usage);
  } catch (const UsageError& error) {
    return fail(error.what(), exit_wrong_usage);
  } catch (const io::FileError& error) {
    return fail(error.what(), exit_wrong_usage);
  } catch (const std::bad_alloc&) {
    return fail("not enough memory", exit_wrong_usage);
  } catch (const std::system_error& error) {
    // fmt and io::flush_printed throw it when it cannot print, which `finish` tells.
    if (std::ferror(stdout) != 0) return exit_wrong_usage;
    return fail(fmt::format("internal error: {}", error.what()), exit_wrong_result);
  } catch (const std::exception& error) {
    return fail(fmt::format("internal error: {}", error.what()), exit_wrong_result);
  }
}

/// Flushes stdout and returns the exit code: a full disk may be noticed only here.
int finish(int code) {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  const std::string why = errno == 0 ? "" : fmt::format(": {}", std::strerror(errno));
  return fail("the results cannot be printed" + why, code == exit_right ? exit_wrong_usage : code);
}

/// Tells what is wrong with the command line, and where its help is.
int wrong_usage(const CLI::App& program, const CLI::ParseError& error) {
  std::string command = "fa";
  for (const CLI::App* app : program.get_subcommands()) command += " " + app->get_name();
  if (program.get_subcommands().empty()) {
    const std::vector<std::string> unknown = program.remaining();
    const std::string what =
        unknown.empty() ? "a command is missing"
                        : fmt::format("\"{}\" is not a command", system::shown(unknown.front()));
    return fail(what + "; fa --help lists what there is", exit_wrong_usage);
  }
  return fail(fmt::format("{}; {} --help lists the flags", system::shown(error.what()), command),
              exit_wrong_usage);
}

int main(int argc, char** argv) {
  CLI::App parser(description, "fa");
  const support::Flags program(parser);
  parser.set_version_flag("--version", std::string("fa ") + version());
  parser.require_subcommand(1);
  const std::vector<Command> commands{add_demo(program),   add_run(program),  add_check(program),
                                      add_bench(program),  add_info(program), add_compile(program),
                                      add_measure(program)};
  try {
    parser.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // --help, --version
    return parser.exit(asked);
  } catch (const CLI::ParseError& error) {
    return wrong_usage(parser, error);
  }
  for (const Command& command : commands) {
    if (command.flags.app().parsed()) return run_command(command);
  }
  return exit_wrong_usage;
}

}  // namespace
}  // namespace fa::cli

int main(int argc, char** argv) {
  fa::cli::take_closed_descriptors();  // before anything is opened
  std::signal(SIGXFSZ, SIG_IGN);       // a file that grows too large is an error to be told
  return fa::cli::finish(fa::cli::main(argc, argv));
}
