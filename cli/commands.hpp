// The commands of fa. Each adds itself to the program and returns what runs it: the exit code.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace fa::cli {

struct Command {
  CLI::App* app;
  std::function<int()> run;
};

Command add_demo(CLI::App& program);
Command add_run(CLI::App& program);
Command add_check(CLI::App& program);
Command add_bench(CLI::App& program);
Command add_info(CLI::App& program);
Command add_compile(CLI::App& program);
/// Hidden: `demo` starts it as a process of its own, whose peak memory it wants to know.
Command add_measure(CLI::App& program);

}  // namespace fa::cli
