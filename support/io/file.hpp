// Files: read at given offsets, written aside and renamed when complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "support/io/held_signals.hpp"
#include "system/replacement.hpp"

namespace fa::io {

/// A regular file that is open for reading. Throws FileError.
class InputFile {
 public:
  explicit InputFile(const std::string& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }
  /// Fills `to` from `offset` on; a file that ends before that is an error.
  void read(uint64_t offset, std::span<std::byte> to) const;
  /// The first bytes, at most `count`.
  std::vector<std::byte> head(uint64_t count) const;

 private:
  std::string path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

/// A file that takes its place by `commit`, whole; see system::Replacement. A signal that ends the
/// program leaves nothing of it. Throws FileError.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path) : OutputFile(path, path) {}
  /// `name`: what errors call it.
  OutputFile(const std::string& path, const std::string& name);

  void write(std::span<const std::byte> bytes);
  void write(const std::string& text) { write(std::as_bytes(std::span(text))); }
  /// All bytes are on the disk: a full one is noticed here, before any rename.
  void sync();
  void commit();

 private:
  std::string name_;
  HeldSignals held_;  // gone after what they are held for
  system::Replacement file_;
};

/// A folder that is not there yet and appears by `commit`, with all files that lie in `temporary`.
/// A signal that ends the program leaves nothing of it. Throws FileError.
class OutputFolder {
 public:
  explicit OutputFolder(const std::string& path);

  const std::string& temporary() const { return folder_.temporary(); }
  void commit();

 private:
  std::string path_;
  HeldSignals held_;
  system::NewFolder folder_;
};

/// Throws FileError unless an OutputFile can take the name `path`. Leaves nothing behind, and what
/// is there as it is.
void try_writing(const std::string& path);

/// A whole file of text, by an OutputFile.
void write_text(const std::string& path, const std::string& text);

}  // namespace fa::io
