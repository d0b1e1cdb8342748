// A text for scripts, beside what is printed: what a --json names.
#pragma once

#include <string>

#include "system/file.hpp"

namespace fa::io {

/// A file appears whole or not at all; a device or a pipe is written to as it is. "-" and
/// /dev/stdout are stdout, which then has the text alone: what is printed goes to stderr. Throws
/// FileError.
class TextOutput {
 public:
  /// Before anything is computed: throws where `path` cannot be written. Empty: no text is wanted.
  explicit TextOutput(const std::string& path);

  bool wanted() const { return !path_.empty(); }
  /// After what was printed; std::system_error, and nothing written, where that cannot be.
  void write(const std::string& text);

 private:
  std::string path_;
  system::File open_;  ///< where `path` names an open descriptor: another one of the same file
};

}  // namespace fa::io
