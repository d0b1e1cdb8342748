// The time that a call takes of its host thread, for problems of hardly any work.
#pragma once

#include <string>

#include "support/io/text_output.hpp"

namespace fa::cli {

/// Times fa::forward and Plan::run on "cpu", "cuda" or "cuda:N", and prints it. A device's queue is
/// emptied between the rounds and not within them. json: for every round.
/// Returns the exit code. Throws Error: there is no such device.
int bench_host_time(const std::string& device, io::TextOutput& json);

}  // namespace fa::cli
