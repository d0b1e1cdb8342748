// A file of compiled kernels, made by `fa compile` and named by FA_BUNDLE: with it, neither NVRTC
// nor a disk cache is needed. It is trusted as a shared library is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cuda/runtime/digest.hpp"
#include "system/file.hpp"

namespace fa::cuda {

struct BundleEntry {
  Digest key;
  std::vector<char> code;
};

/// Throws Error (invalid_argument) where write_bundle() would: asked before minutes of compiling.
void check_bundle_path(const std::string& path);

/// As a system::Replacement: there is the whole file or none. sources: digest of the device code
/// that the kernels were compiled from. Returns the file's size. Throws Error (invalid_argument)
/// naming `path`.
int64_t write_bundle(const std::string& path, const Digest& sources,
                     const std::vector<BundleEntry>& entries);

class Bundle {
 public:
  /// Reads the index. Throws Error (invalid_argument) when it is no bundle or damaged.
  explicit Bundle(const std::string& path);
  /// Those that FA_BUNDLE lists, separated by colons.
  static std::vector<Bundle> of_environment();

  const std::string& path() const { return path_; }
  const Digest& sources() const { return sources_; }
  size_t size() const { return index_.size(); }
  /// Throws Error when the bundle has the kernel and it is damaged.
  std::optional<std::vector<char>> load(const Digest& key) const;

  /// Where an entry lies in the file.
  struct Place {
    Digest key;
    uint64_t offset = 0;
    uint64_t bytes = 0;
    Digest checksum;
  };

 private:
  [[noreturn]] void fail(const std::string& why) const;

  std::string path_;
  system::File file_;
  Digest sources_;
  std::vector<Place> index_;  // by key
};

}  // namespace fa::cuda
