// Flags that several commands have: the plain numbers of fa::Options, and threads.
#pragma once

#include "fa/attention.hpp"
#include "support/flags.hpp"

namespace fa::cli {

/// Adds a flag for each number in `options`, which must outlive the parsing. The longest sequences
/// have none: only `fa run`, which reads lengths, can use them.
void add_option_flags(const support::Flags& command, Options& options);

inline constexpr const char* threads_help =
    "CPU threads; 0: the least of OMP_NUM_THREADS, the CPUs that fa may run on (affinity) and,"
    " without that variable, the CPU quota of its container; a small problem then takes one";

}  // namespace fa::cli
