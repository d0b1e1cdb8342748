// The text for scripts that --json asks for, beside the printed results.
#pragma once

#include <string>

#include "system/file.hpp"

namespace fa::io {

/// Writes a text to a file, which appears whole or not at all, or to a device or a pipe. "-" and
/// /dev/stdout name stdout: it then has this text alone, and printed results go to stderr. Throws
/// FileError.
class TextOutput {
 public:
  /// Throws where `path` cannot be written: made before anything is computed. An empty path means
  /// that no text is wanted.
  explicit TextOutput(const std::string& path);

  bool wanted() const { return !path_.empty(); }
  /// Flushes stdout first. Where that fails, throws std::system_error and writes nothing.
  void write(const std::string& text);

 private:
  std::string path_;
  system::File open_;  ///< where `path` names an open descriptor: another one of the same file
};

}  // namespace fa::io
