// Writes the results of a run.
#pragma once

#include <span>
#include <string>
#include <utility>

#include "io/array.hpp"

namespace fa::cli {

using NamedArray = std::pair<std::string, const io::Array*>;

/// Where results go: one FILE.safetensors, or else a folder with one NAME.npy for each. Throws
/// UsageError for a name that is neither.
class ResultPath {
 public:
  explicit ResultPath(std::string path);
  bool is_folder() const { return folder_; }
  /// Throws io::FileError unless `write` has a place to write to, found out by trying; leaves
  /// nothing behind. Throws UsageError where `write` would overwrite one of the `inputs`.
  void try_writing(std::span<const NamedArray> results, std::span<const std::string> inputs) const;
  /// Everything is written under temporary names first, and renamed when all is complete: on an
  /// error nothing is left. Throws io::FileError.
  void write(std::span<const NamedArray> results) const;

 private:
  std::string file_of(const NamedArray& result) const;
  void write_folder(std::span<const NamedArray> results) const;

  std::string path_;
  bool folder_;
};

}  // namespace fa::cli
