// Flags that several commands have: for those of fa::Options that are plain numbers, seeds,
// threads.
#pragma once

#include <CLI/CLI.hpp>

#include "fa/attention.hpp"

namespace fa::cli {

/// One flag for each number in `options`, which must outlive the parsing; but not for the longest
/// sequences, which only those who bring lengths can tell.
void add_option_flags(CLI::App& app, Options& options);

/// For numbers of 64 bits without sign: refuses "-3" and 2^64, which would become others.
CLI::Validator unsigned_number();

inline constexpr const char* threads_help =
    "CPU threads; 0: the least of OMP_NUM_THREADS, the CPUs that fa may run on (affinity) and,"
    " without that variable, the CPU quota of its container; a small problem then takes one";

}  // namespace fa::cli
