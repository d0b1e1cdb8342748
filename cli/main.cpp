#include <fmt/format.h>

#include <cstdio>
#include <new>
#include <vector>

#include "commands.hpp"
#include "common/exit.hpp"
#include "fa/attention.hpp"
#include "io/error.hpp"

namespace fa::cli {
namespace {

constexpr const char* description =
    "Exact attention, forward and backward, in memory linear in the sequence.\n"
    "Exit code: 0 right, 1 a wrong result, 2 wrong usage or unreadable files.";

int fail(const std::string& what, int code) {
  fmt::print(stderr, "fa: {}\n", what);
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
  } catch (const std::exception& error) {
    return fail(fmt::format("internal error: {}", error.what()), exit_wrong_result);
  }
}

int main(int argc, char** argv) {
  CLI::App program(description, "fa");
  program.set_version_flag("--version", std::string("fa ") + version());
  program.require_subcommand(1);
  const std::vector<Command> commands{add_demo(program),  add_run(program),  add_check(program),
                                      add_bench(program), add_info(program), add_measure(program)};
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return program.exit(error) == 0 ? exit_right : exit_wrong_usage;
  }
  for (const Command& command : commands) {
    if (command.app->parsed()) return run_command(command);
  }
  return exit_wrong_usage;
}

}  // namespace
}  // namespace fa::cli

int main(int argc, char** argv) { return fa::cli::main(argc, argv); }
