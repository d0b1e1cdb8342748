// The CPU time that Linux control groups allow a process, as containers are given it.
#pragma once

#include <filesystem>
#include <optional>

namespace fa::cpu {

/// As CPUs, rounded up: the least of this process's group and those around it, of either version of
/// control groups. None where nothing limits it. Files are looked up under `root` ("/").
std::optional<int> cpu_quota(const std::filesystem::path& root);

}  // namespace fa::cpu
