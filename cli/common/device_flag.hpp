// The flag --device: "cpu", "cuda" or "cuda:N".
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "check/accelerator.hpp"

namespace fa::cli {

CLI::Validator device_name();

/// Null for "cpu". Throws Error: there is no such device.
std::unique_ptr<check::Accelerator> accelerator_of(const std::string& device);

}  // namespace fa::cli
