// Writes the results of a run.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "support/io/array.hpp"
#include "support/io/file.hpp"

namespace fa::cli {

using NamedArray = std::pair<std::string, const io::Array*>;

/// Results that are on the disk, all of them, but not yet under their names. Destroyed, they are
/// gone.
class WrittenResults {
 public:
  /// All or none, whatever signal comes. Throws io::FileError.
  void commit();

 private:
  friend class ResultPath;
  std::optional<io::OutputFolder> folder_;
  std::vector<io::OutputFile> files_;
};

/// The place of the results: one FILE.safetensors, or a folder with a NAME.npy for each. Throws
/// UsageError for a name that is neither.
class ResultPath {
 public:
  explicit ResultPath(std::string path);
  bool is_folder() const { return folder_; }
  /// Throws io::FileError unless `write` has a place to write to, found out by trying; leaves
  /// nothing behind. Throws UsageError where `write` would overwrite one of the `inputs`.
  void try_writing(std::span<const NamedArray> results, std::span<const std::string> inputs) const;
  /// On an error nothing is left. Throws io::FileError.
  WrittenResults write(std::span<const NamedArray> results) const;

 private:
  bool is_there() const;
  std::string file_of(const NamedArray& result) const;

  std::string path_;
  bool folder_;
};

}  // namespace fa::cli
