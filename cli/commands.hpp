// The commands of fa. Each adds itself to the program and returns what runs it: the exit code.
#pragma once

#include <functional>

#include "support/flags.hpp"

namespace fa::cli {

struct Command {
  support::Flags flags;
  std::function<int()> run;
};

Command add_demo(const support::Flags& program);
Command add_run(const support::Flags& program);
Command add_check(const support::Flags& program);
Command add_bench(const support::Flags& program);
Command add_info(const support::Flags& program);
Command add_compile(const support::Flags& program);
/// Hidden: `demo` starts it as a process of its own, whose peak memory it wants to know.
Command add_measure(const support::Flags& program);

}  // namespace fa::cli
