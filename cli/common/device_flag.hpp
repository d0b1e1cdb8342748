// The flag --device: "cpu", "cuda" or "cuda:N".
#pragma once

#include <memory>
#include <string>

#include "check/accelerator.hpp"
#include "support/flags.hpp"

namespace fa::cli {

support::Flag add_device_flag(const support::Flags& command, std::string& device,
                              const std::string& help);

/// Null for "cpu". Throws Error: there is no such device.
std::unique_ptr<check::Accelerator> accelerator_of(const std::string& device);

}  // namespace fa::cli
