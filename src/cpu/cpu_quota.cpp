#include "cpu/cpu_quota.hpp"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace fa::cpu {

namespace {

namespace fs = std::filesystem;

/// Whether a list separated by commas names it.
bool names(const std::string& list, std::string_view wanted) {
  std::istringstream parts(list);
  for (std::string part; std::getline(parts, part, ',');) {
    if (part == wanted) return true;
  }
  return false;
}

/// Where the CPU controller's groups are mounted, and which of them lies there.
struct Mount {
  std::string group;
  std::string folder;
};

/// Blanks in paths are written as \040.
std::string unescaped(const std::string& text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool octal = text[i] == '\\' && i + 3 < text.size() &&
                       std::all_of(text.begin() + i + 1, text.begin() + i + 4,
                                   [](char c) { return c >= '0' && c <= '7'; });
    result += octal ? static_cast<char>(std::stoi(text.substr(i + 1, 3), nullptr, 8)) : text[i];
    i += octal ? 3 : 0;
  }
  return result;
}

std::vector<Mount> mounts(const fs::path& root, bool second_version) {
  std::vector<Mount> found;
  std::ifstream lines(root / "proc/self/mountinfo");
  for (std::string line; std::getline(lines, line);) {
    // "36 35 0:30 GROUP FOLDER options [fields] - type source options"
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream before(line.substr(0, dash));
    std::istringstream behind(line.substr(dash + 3));
    std::string skipped, group, folder, type, options;
    before >> skipped >> skipped >> skipped >> group >> folder;
    behind >> type >> skipped >> options;
    if (type == (second_version ? "cgroup2" : "cgroup") &&
        (second_version || names(options, "cpu"))) {
      found.push_back({unescaped(group), unescaped(folder)});
    }
  }
  return found;
}

/// CPUs that one group is given; none where it is not limited, or there is no such file.
std::optional<double> limit_of(const fs::path& folder, bool second_version) {
  std::string quota;  // "max", or "-1" in the first version: no limit
  std::string period;
  if (second_version) {
    std::ifstream(folder / "cpu.max") >> quota >> period;
  } else {
    std::ifstream(folder / "cpu.cfs_quota_us") >> quota;
    std::ifstream(folder / "cpu.cfs_period_us") >> period;
  }
  const double time = std::strtod(quota.c_str(), nullptr);
  const double of = std::strtod(period.c_str(), nullptr);
  return time > 0 && of > 0 ? std::optional(time / of) : std::nullopt;
}

/// The process's group as a path below a mount; "" is the mounted group itself, which is also what
/// is known of a group that lies elsewhere.
std::string below(const Mount& mount, const std::string& group) {
  const std::string base = mount.group == "/" ? "" : mount.group;
  const bool inside = group.starts_with(base + "/") && group.find("/..") == std::string::npos;
  return inside ? group.substr(base.size() + 1) : "";
}

}  // namespace

std::optional<int> cpu_quota(const fs::path& root) {
  std::optional<double> least;
  std::ifstream lines(root / "proc/self/cgroup");
  for (std::string line; std::getline(lines, line);) {
    // "0::GROUP", or "4:cpu,cpuacct:GROUP" of the first version
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool second_version = controllers.empty();
    if (!second_version && !names(controllers, "cpu")) continue;
    for (const Mount& mount : mounts(root, second_version)) {
      fs::path group = below(mount, line.substr(second + 1));
      for (;; group = group.parent_path()) {
        const auto limit =
            limit_of(root / fs::path(mount.folder).relative_path() / group, second_version);
        if (limit && (!least || *limit < *least)) least = limit;
        if (group.empty()) break;
      }
    }
  }
  if (!least) return std::nullopt;
  const double whole = std::min<double>(*least, INT_MAX / 2);
  return static_cast<int>(whole) + (static_cast<int>(whole) < whole ? 1 : 0);
}

}  // namespace fa::cpu
