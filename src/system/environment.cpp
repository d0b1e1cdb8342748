#include "system/environment.hpp"

#include <fmt/format.h>

#include <cstdlib>

#include "system/shown.hpp"

namespace fa::system {

std::string variable(const char* name) {
  const char* value = secure_getenv(name);
  return value == nullptr ? "" : value;
}

std::string folder_variable(const char* name, std::string& problem) {
  std::string folder = variable(name);
  if (folder.empty() || folder.starts_with('/')) return folder;
  problem = fmt::format("{}: \"{}\" is a relative path, which is not used; it must begin with /",
                        name, shown(folder));
  return {};
}

}  // namespace fa::system
