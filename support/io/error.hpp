// The error of the readers and writers of files.
#pragma once

#include <stdexcept>
#include <string>

#include "system/shown.hpp"

namespace fa::io {

/// A file that cannot be read, is not what it claims to be, or cannot be written. what() begins
/// with the file's name.
class FileError : public std::runtime_error {
 public:
  FileError(const std::string& file, const std::string& problem)
      : std::runtime_error(system::shown(file) + ": " + problem) {}
};

}  // namespace fa::io
