// The CPU time that Linux control groups allow a process, as containers are given it.
#pragma once

#include <filesystem>
#include <optional>

namespace fa::cpu {

/// The quota in CPUs, rounded up: the least of this process's group and the groups around it, in
/// either version of control groups. Nothing where no group limits it. `root` ("/") is the folder
/// under which files are looked up.
std::optional<int> cpu_quota(const std::filesystem::path& root);

}  // namespace fa::cpu
