// POSIX files: opened, read and written whole.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace fa::system {

/// An open file, closed at the end.
class File {
 public:
  File() = default;
  /// Owns `fd`, under another number where it is that of stdin, stdout or stderr: a program that
  /// closed these may yet print, and not into a file of ours.
  explicit File(int fd);
  File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  File& operator=(File&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~File() { close(); }

  int fd() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  /// False when the system reports only now that something could not be written.
  bool close();

 private:
  int fd_ = -1;
};

/// All bytes or false, with errno set (0 at an end of file).
bool write_all(const File& file, std::span<const char> bytes);
bool read_all(const File& file, std::span<char> bytes, size_t offset);

/// A name beside others that nobody else chooses: "STEM.0123456789abcdef.tmp".
std::string temporary_name(const std::string& stem);
inline constexpr size_t temporary_tail = 21;  // characters after the stem
bool is_temporary_name(std::string_view name, std::string_view stem);

}  // namespace fa::system
