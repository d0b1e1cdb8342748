// Flags for those of fa::Options that are plain numbers, and what seeds must be.
#pragma once

#include <CLI/CLI.hpp>

#include "fa/attention.hpp"

namespace fa::cli {

/// One flag for each number in `options`, which must outlive the parsing.
void add_option_flags(CLI::App& app, Options& options);

/// For unsigned numbers: refuses "-3", which would become a huge one.
CLI::Validator not_negative();

}  // namespace fa::cli
