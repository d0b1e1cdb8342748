// Flags for those of fa::Options that are plain numbers.
#pragma once

#include <CLI/CLI.hpp>

#include "fa/attention.hpp"

namespace fa::cli {

/// One flag for each number in `options`, which must outlive the parsing.
void add_option_flags(CLI::App& app, Options& options);

}  // namespace fa::cli
