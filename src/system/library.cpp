#include "system/library.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <link.h>
#include <unistd.h>

#include "system/shown.hpp"

namespace fa::system {

namespace {

/// All of them, as the loader has them; a relative one may be "".
std::vector<std::string> searched_folders() {
  void* program = dlopen(nullptr, RTLD_LAZY);
  Dl_serinfo size{};
  if (program == nullptr || dlinfo(program, RTLD_DI_SERINFOSIZE, &size) != 0) return {};
  std::vector<char> room(size.dls_size);
  auto* paths = reinterpret_cast<Dl_serinfo*>(room.data());
  dlinfo(program, RTLD_DI_SERINFOSIZE, paths);
  if (dlinfo(program, RTLD_DI_SERINFO, paths) != 0) return {};
  std::vector<std::string> folders;
  for (unsigned i = 0; i < paths->dls_cnt; ++i) {
    folders.emplace_back(paths->dls_serpath[i].dls_name);
  }
  return folders;
}

bool is_relative(const std::string& folder) { return !folder.starts_with('/'); }

}  // namespace

std::vector<std::string> loader_folders() {
  std::vector<std::string> folders = searched_folders();
  std::erase_if(folders, is_relative);
  return folders;
}

void* open_library(const std::string& name, std::string& problem) {
  const std::vector<std::string> folders = loader_folders();
  void* library = nullptr;
  if (folders.size() == searched_folders().size()) {
    library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) problem = shown(dlerror());
    return library;
  }
  problem = fmt::format(
      "{} is in none of the loader's folders; the current directory, which an empty or relative "
      "element of LD_LIBRARY_PATH names, is not searched",
      shown(name));
  for (const std::string& folder : folders) {
    const std::string path = fmt::format("{}/{}", folder, name);
    if (access(path.c_str(), F_OK) != 0) continue;
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) return library;
    problem = shown(dlerror());
  }
  return nullptr;
}

}  // namespace fa::system
