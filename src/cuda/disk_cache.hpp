// Compiled kernels kept on disk between processes. Everything here may fail without harm: the
// kernel is compiled then.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cuda/digest.hpp"
#include "cuda/file.hpp"

namespace fa::cuda {

class DiskCache {
 public:
  /// Makes the folder where it is missing. Not used unless it is this user's and nobody else may
  /// enter it.
  explicit DiskCache(const std::string& folder);
  /// The folder that the environment names: FA_CACHE_DIR, else fa-kernels in XDG_CACHE_HOME or
  /// HOME/.cache; none with FA_CACHE=0.
  static DiskCache of_environment();

  const std::string& folder() const { return folder_; }
  /// Why it is not used; empty when it is.
  const std::string& problem() const { return problem_; }

  /// An entry that is damaged is removed and not given.
  std::optional<std::vector<char>> load(const Digest& key) const;
  void store(const Digest& key, std::span<const char> code) const;
  /// Held while a kernel is compiled, so that other processes wait and then find it. Waits no
  /// longer than `seconds`, and not at all where the file system has no locks.
  File lock(const Digest& key, double seconds = 60) const;

  struct Usage {
    int64_t entries = 0;
    int64_t bytes = 0;
  };
  Usage usage() const;

 private:
  DiskCache() = default;
  void open();
  void remove_leftovers() const;

  std::string folder_;
  std::string problem_;
  File directory_;
};

}  // namespace fa::cuda
