#include "support/io/text_output.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <string_view>

#include "support/io/error.hpp"
#include "support/io/file.hpp"
#include "support/io/printed.hpp"

namespace fa::io {
namespace {

using system::File;

[[noreturn]] void fail(const std::string& path) {
  throw FileError(path, fmt::format("cannot be written: {}", std::strerror(errno)));
}

/// The open descriptor that `path` names, or -1. As a file it would be replaced while another
/// program has it open.
int descriptor_of(std::string_view path) {
  constexpr std::string_view folder = "/dev/fd/";
  if (path == "-" || path == "/dev/stdout") return STDOUT_FILENO;
  if (path == "/dev/stderr") return STDERR_FILENO;
  if (!path.starts_with(folder)) return -1;
  int descriptor = -1;
  const char* end = path.data() + path.size();
  const auto [rest, error] = std::from_chars(path.data() + folder.size(), end, descriptor);
  return error == std::errc() && rest == end ? descriptor : -1;
}

/// Another descriptor of the same file. Where that is not writable, it is closed and errno is set.
File duplicate(int descriptor) {
  const int flags = fcntl(descriptor, F_GETFL);
  if (flags >= 0 && (flags & O_ACCMODE) == O_RDONLY) errno = EBADF;
  if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY) return File();
  return File(fcntl(descriptor, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
}

/// A device, a pipe, a socket.
bool is_stream(const std::string& path) {
  struct stat status{};
  return stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
}

}  // namespace

TextOutput::TextOutput(const std::string& path) : path_(path) {
  if (path.empty()) return;
  const int descriptor = descriptor_of(path);
  if (descriptor >= 0) {
    open_ = duplicate(descriptor);
    if (!open_.is_open()) fail(path);
    if (descriptor == STDOUT_FILENO && dup2(STDERR_FILENO, STDOUT_FILENO) < 0) fail(path);
  } else if (!is_stream(path)) {
    try_writing(path);
  } else if (access(path.c_str(), W_OK) != 0) {
    fail(path);
  }
}

void TextOutput::write(const std::string& text) {
  flush_printed();  // which comes before, and without which there is no result
  if (!open_.is_open()) {
    if (!is_stream(path_)) {
      write_text(path_, text);
      return;
    }
    open_ = File(open(path_.c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC));
  }
  if (!open_.is_open() || !write_all(open_, text) || !open_.close()) fail(path_);
}

}  // namespace fa::io
