// Files and folders that appear whole or not at all: written under a name of their own beside the
// one they are to have, and renamed when complete. A kill at any moment leaves the old file or the
// new one; what it leaves besides is removed by the next write to the same place.
#pragma once

#include <span>
#include <stdexcept>
#include <string>

#include "system/file.hpp"

namespace fa::system {

/// Why a file or folder cannot be written; what() does not name it.
class CannotWrite : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A file in the place of another one or of none. A link stays, and the file it leads to is
/// replaced. What is no regular file, or may not be written, is refused. An old file hands on its
/// mode and, where that is allowed, its owner. Destroyed before `commit`, it leaves nothing behind.
/// Throws CannotWrite.
class Replacement {
 public:
  explicit Replacement(const std::string& path);
  ~Replacement();
  Replacement(Replacement&& other) noexcept;
  Replacement& operator=(Replacement&&) = delete;

  void write(std::span<const char> bytes);
  /// All bytes are on the disk: a full one is noticed here, before any rename.
  void sync();
  void commit();

 private:
  std::string path_;
  std::string temporary_;
  File file_;  // locked until it is renamed, so that nobody takes it for a leftover
};

/// A folder that was not there; it appears with all that was put into it. Throws CannotWrite.
class NewFolder {
 public:
  explicit NewFolder(const std::string& path);
  ~NewFolder();
  NewFolder(NewFolder&& other) noexcept;
  NewFolder& operator=(NewFolder&&) = delete;

  /// Where it lies until `commit`.
  const std::string& temporary() const { return temporary_; }
  void commit();

 private:
  std::string path_;
  std::string temporary_;
  File file_;
};

}  // namespace fa::system
