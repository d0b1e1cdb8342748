#include "cuda/runtime/nvrtc.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <type_traits>

#include "cuda/runtime/driver.hpp"
#include "cuda/runtime/nvrtc_search.hpp"
#include "fa/attention.hpp"
#include "system/library.hpp"
#include "system/shown.hpp"

namespace fa::cuda {

namespace {

namespace fs = std::filesystem;

std::string identity_of(const std::string& path) {
  struct stat file{};
  if (stat(path.c_str(), &file) != 0) return {};
  return fmt::format("{} {} {}.{:09}", path, file.st_size, file.st_mtim.tv_sec,
                     file.st_mtim.tv_nsec);
}

/// NVRTC opens its builtins by a bare name, which the loader finds only where it has them already
/// (PyPI's lie in no folder that it knows).
void open_builtins(const fs::path& nvrtc) {
  const std::string prefix = fmt::format("libnvrtc-builtins.so.{}", nvrtc_major(nvrtc));
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(nvrtc.parent_path(), error)) {
    if (entry.path().filename().string().starts_with(prefix)) {
      dlopen(entry.path().c_str(), RTLD_NOW | RTLD_LOCAL);
    }
  }
}

/// The file a loaded symbol lies in.
std::string file_of(const void* symbol, const std::string& otherwise) {
  Dl_info info{};
  std::error_code error;
  if (dladdr(symbol, &info) == 0) return otherwise;
  const fs::path path = fs::canonical(info.dli_fname, error);
  return error ? otherwise : path.string();
}

/// Null, and the reason in `problem`, when the file is no NVRTC.
const Nvrtc* open(const std::string& path, std::string& problem) {
  void* library = nullptr;
  if (fs::path(path).is_absolute()) {
    open_builtins(path);
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) problem = system::shown(dlerror());
  } else {
    library = system::open_library(path, problem);
  }
  if (library == nullptr) return nullptr;
  auto opened = std::make_unique<Nvrtc>();
  const auto load = [&](auto& function, const char* symbol) {
    function =
        reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, symbol));
    if (function == nullptr) problem = fmt::format("{} (lacks {})", system::shown(path), symbol);
    return function != nullptr;
  };
#define FA_NVRTC_LOAD(member, symbol, parameters) \
  if (!load(opened->member, #symbol)) return nullptr;
  FA_NVRTC_FUNCTIONS(FA_NVRTC_LOAD)
#undef FA_NVRTC_LOAD
  if (opened->get_version(&opened->major, &opened->minor) != nvrtc_success) {
    problem = fmt::format("{} (does not tell its version)", system::shown(path));
    return nullptr;
  }
  opened->path = file_of(reinterpret_cast<void*>(opened->compile), path);
  opened->identity = identity_of(opened->path);
  return opened.release();
}

int newest_major() {
  const Driver* driver = driver_if_any();
  return driver == nullptr ? 0 : driver->version / 1000;
}

std::mutex opening;
std::atomic<const Nvrtc*> opened_nvrtc;  // never closed

}  // namespace

const Nvrtc& nvrtc() {
  if (const Nvrtc* found = opened_nvrtc) return *found;
  const std::lock_guard lock(opening);
  if (const Nvrtc* found = opened_nvrtc) return *found;
  NvrtcSearch search = search_nvrtc(newest_major());
  for (const std::string& path : search.files) {
    std::string problem;
    const Nvrtc* found = open(path, problem);
    if (found != nullptr) {
      opened_nvrtc = found;
      return *found;
    }
    if (search.named) {
      throw Error(Status::invalid_argument,
                  fmt::format("FA_NVRTC: names no NVRTC that can be used: {}", problem));
    }
    // The loader's message for a bare name says no more than that it is nowhere.
    if (fs::path(path).is_absolute()) search.misses.push_back(problem);
  }
  throw Error(Status::unsupported,
              fmt::format("cuda: no NVRTC is here to compile the kernels: install one (pip install "
                          "nvidia-cuda-nvrtc), or name its file or folder in FA_NVRTC, or a bundle "
                          "of compiled kernels in FA_BUNDLE. Looked at: {}",
                          fmt::join(search.misses, ", ")));
}

std::string nvrtc_identity() {
  if (const Nvrtc* found = opened_nvrtc) return found->identity;
  const NvrtcSearch search = search_nvrtc(newest_major());
  if (search.files.empty()) return {};
  const std::string& first = search.files.front();
  if (fs::path(first).is_absolute()) return identity_of(first);
  try {  // only the loader can tell where it is
    return nvrtc().identity;
  } catch (const Error&) {
    return {};
  }
}

}  // namespace fa::cuda
