#include "system/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <random>

namespace fa::system {

File::File(int fd) : fd_(fd) {
  if (fd < 0 || fd > STDERR_FILENO) return;
  fd_ = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  const int why = errno;
  ::close(fd);
  errno = why;
}

bool File::close() {
  const int fd = std::exchange(fd_, -1);
  return fd < 0 || ::close(fd) == 0;
}

bool write_all(const File& file, std::span<const char> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(file.fd(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return true;
}

bool read_all(const File& file, std::span<char> bytes, size_t offset) {
  while (!bytes.empty()) {
    const ssize_t count = pread(file.fd(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = 0;
    if (count <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(count));
    offset += static_cast<size_t>(count);
  }
  return true;
}

std::string temporary_name(const std::string& stem) {
  std::random_device random;
  return fmt::format("{}.{:08x}{:08x}.tmp", stem, random(), random());
}

bool is_temporary_name(std::string_view name, std::string_view stem) {
  if (name.size() != stem.size() + temporary_tail || !name.starts_with(stem)) return false;
  name.remove_prefix(stem.size());
  return name.front() == '.' && name.ends_with(".tmp") &&
         name.substr(1, 16).find_first_not_of("0123456789abcdef") == name.npos;
}

}  // namespace fa::system
