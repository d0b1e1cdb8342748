// Compiled kernels kept on disk between processes. Everything here may fail without harm: the
// kernel is compiled then.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cuda/runtime/digest.hpp"
#include "system/file.hpp"

namespace fa::cuda {

class DiskCache {
 public:
  /// Where the folder may be made: anywhere, or not inside a folder of another user (but root).
  enum class Ground { any, own };

  /// Not used unless it is this user's and nobody else may enter it. Where it is missing, it is
  /// made when first something is stored.
  explicit DiskCache(const std::string& folder, Ground ground = Ground::any);
  /// The folder that the environment names: FA_CACHE_DIR, else fa-kernels in XDG_CACHE_HOME or
  /// HOME/.cache; none with FA_CACHE=0.
  static DiskCache of_environment();

  const std::string& folder() const { return folder_; }
  /// Why it is not used; empty when it is, or will be once it is made.
  std::string problem() const;

  /// An entry that is damaged is removed and not given.
  std::optional<std::vector<char>> load(const Digest& key) const;
  void store(const Digest& key, std::span<const char> code) const;
  /// Held while a kernel is compiled, so that other processes wait and then find it. Waits no
  /// longer than `seconds`, and not at all where the file system has no locks.
  system::File lock(const Digest& key, double seconds = 60) const;

  struct Usage {
    int64_t entries = 0;
    int64_t bytes = 0;
  };
  Usage usage() const;

 private:
  enum class Missing { stays, is_made };
  /// What is known of the folder, by any thread.
  struct State {
    std::mutex mutex;
    std::string problem;
    system::File directory;  // never closed once it is open
  };

  DiskCache() = default;
  /// The folder's descriptor; negative where it is not used or missing.
  int directory(Missing missing) const;
  void open() const;
  static void remove_leftovers(int directory);

  std::string folder_;
  std::unique_ptr<State> state_ = std::make_unique<State>();
};

}  // namespace fa::cuda
