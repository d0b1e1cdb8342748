// Reads the tensors that a user names: a file, or a name in --tensors.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "support/io/array.hpp"
#include "support/io/safetensors.hpp"

namespace fa::cli {

/// A source is FILE.npy, FILE.safetensors:NAME, or the NAME of a tensor in the default file.
class Sources {
 public:
  /// `default_file`: a safetensors file, or empty for none. Throws io::FileError.
  explicit Sources(std::string default_file);

  /// Reads one tensor; an empty source gives an array that is not given. Throws UsageError naming
  /// `flag`, or io::FileError.
  io::Array read(const std::string& flag, const std::string& source);
  /// Reads lengths: int64, numpy's default, becomes int32.
  io::Array read_lengths(const std::string& flag, const std::string& source);
  /// All files that were read.
  const std::vector<std::string>& files() const { return files_; }

 private:
  const io::Safetensors& open(const std::string& path);

  std::string default_file_;
  std::map<std::string, std::unique_ptr<io::Safetensors>> opened_;
  std::vector<std::string> files_;
};

}  // namespace fa::cli
