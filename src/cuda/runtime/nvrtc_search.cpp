#include "cuda/runtime/nvrtc_search.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <link.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <utility>

#include "fa/attention.hpp"
#include "system/environment.hpp"
#include "system/library.hpp"
#include "system/shown.hpp"

namespace fa::cuda {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view stem = "libnvrtc.so.";
constexpr int oldest_major = 12;  // the first with C++20
constexpr int last_major = 19;    // none that high exists yet

std::string soname(int major) { return fmt::format("{}{}", stem, major); }

std::string shown_folder(const fs::path& path) {
  return system::shown(path.lexically_normal().string());
}

/// Collects candidates, each file once.
class Search {
 public:
  explicit Search(int newest_major) : newest_major_(newest_major) {}

  void file(const fs::path& path) {
    std::error_code error;
    const std::string real = fs::canonical(path, error).string();
    if (error || std::find(seen_.begin(), seen_.end(), real) != seen_.end()) return;
    seen_.push_back(real);
    const std::string misfit = misfit_of(real);
    if (misfit.empty()) {
      found.files.push_back(real);
    } else {
      found.misses.push_back(misfit);
    }
  }

  void folder(const fs::path& path) {
    std::error_code error;
    const size_t before = seen_.size();
    for (int major = last_major; major >= oldest_major; --major) {
      if (fs::exists(path / soname(major), error)) file(path / soname(major));
    }
    if (seen_.size() == before) found.misses.push_back(shown_folder(path));
  }

  /// What the loader's cache may know (/etc/ld.so.conf).
  void bare_names() {
    const int newest = newest_major_ == 0 ? last_major : std::min(newest_major_, last_major);
    for (int major = newest; major >= oldest_major; --major) found.files.push_back(soname(major));
  }

  /// Why a file is not to be used; empty when it is.
  std::string misfit_of(const std::string& path) const {
    const int major = nvrtc_major(path);
    if (newest_major_ != 0 && major > newest_major_) {
      return fmt::format("{} (of CUDA {}, newer than the driver's {})", system::shown(path), major,
                         newest_major_);
    }
    if (major != 0 && major < oldest_major) {
      return fmt::format("{} (of CUDA {}, older than {})", system::shown(path), major,
                         oldest_major);
    }
    return {};
  }

  NvrtcSearch found;

 private:
  int newest_major_;
  std::vector<std::string> seen_;
};

/// FA_NVRTC: that file, or the one in that folder; nothing else is taken when it does not fit.
NvrtcSearch search_named(Search search, const fs::path& named) {
  const auto fail = [&](const std::string& why) {
    throw Error(Status::invalid_argument, fmt::format("FA_NVRTC: {}", why));
  };
  std::error_code error;
  if (fs::is_directory(named, error)) {
    search.folder(named);
  } else if (fs::exists(named, error)) {
    search.file(named);
  } else {
    fail(fmt::format("\"{}\" does not exist", system::shown(named.string())));
  }
  if (search.found.files.empty()) {
    fail(search.found.misses.front() == shown_folder(named)
             ? fmt::format("no libnvrtc.so.12 or later in {}", system::shown(named.string()))
             : search.found.misses.front());
  }
  return {.files = {search.found.files.front()}, .misses = {}, .named = true};
}

/// Paths of libraries, taken down within the loader's own code: nothing there may throw.
struct LoadedPaths {
  struct Path {
    char* text;
    Path* next;
  };
  Path* first = nullptr;
  bool no_memory = false;

  LoadedPaths() = default;
  LoadedPaths(const LoadedPaths&) = delete;
  LoadedPaths& operator=(const LoadedPaths&) = delete;
  ~LoadedPaths() {
    while (first != nullptr) {
      Path* path = std::exchange(first, first->next);
      std::free(path->text);
      delete path;
    }
  }

  void add(const char* path) noexcept {
    char* text = strdup(path);
    auto* made = text == nullptr ? nullptr : new (std::nothrow) Path{text, first};
    if (made == nullptr) {
      std::free(text);
      no_memory = true;
    } else {
      first = made;
    }
  }
};

/// One that the process has loaded already, as PyTorch does.
void search_loaded(Search& search) {
  LoadedPaths paths;
  const auto visit = [](dl_phdr_info* info, size_t, void* data) noexcept {
    const char* slash = std::strrchr(info->dlpi_name, '/');
    if (std::string_view(slash == nullptr ? "" : slash + 1).starts_with("libnvrtc.so")) {
      static_cast<LoadedPaths*>(data)->add(info->dlpi_name);
    }
    return 0;
  };
  dl_iterate_phdr(visit, &paths);
  if (paths.no_memory) throw std::bad_alloc();
  for (const auto* path = paths.first; path != nullptr; path = path->next) search.file(path->text);
}

/// PyPI's, in the site-packages that hold this library: ../nvidia from its own folder.
void search_beside(Search& search) {
  Dl_info self{};
  std::error_code error;
  if (dladdr(reinterpret_cast<void*>(&nvrtc_major), &self) == 0) return;
  const fs::path library = fs::canonical(self.dli_fname, error);
  if (error) return;
  const fs::path packages = library.parent_path().parent_path() / "nvidia";
  for (int major = last_major; major > oldest_major; --major) {
    const fs::path folder = packages / fmt::format("cu{}", major) / "lib";
    if (fs::exists(folder, error)) search.folder(folder);
  }
  search.folder(packages / "cuda_nvrtc" / "lib");
}

/// The folders in which the loader looks for libraries: LD_LIBRARY_PATH and the system's.
void search_loader_folders(Search& search) {
  for (const std::string& folder : system::loader_folders()) search.folder(folder);
}

void search_toolkits(Search& search) {
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    std::string problem;
    const std::string toolkit = system::folder_variable(variable, problem);
    if (!toolkit.empty()) search.folder(fs::path(toolkit) / "lib64");
    if (!problem.empty()) search.found.misses.push_back(problem);
  }
  search.folder("/usr/local/cuda/lib64");
}

}  // namespace

NvrtcSearch search_nvrtc(int newest_major) {
  Search search(newest_major);
  const std::string named = system::variable("FA_NVRTC");
  if (!named.empty()) return search_named(search, named);
  search_loaded(search);
  search_beside(search);
  search_loader_folders(search);
  search_toolkits(search);
  search.bare_names();
  return search.found;
}

int nvrtc_major(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  int major = 0;
  if (name.starts_with(stem)) {
    std::from_chars(name.data() + stem.size(), name.data() + name.size(), major);
  }
  return major;
}

}  // namespace fa::cuda
