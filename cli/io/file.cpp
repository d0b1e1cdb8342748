#include "io/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "io/error.hpp"

namespace fa::io {
namespace {

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw FileError(path, fmt::format("{}: {}", what, std::strerror(errno)));
}

}  // namespace

InputFile::InputFile(const std::string& path) : path_(path) {
  // Without O_NONBLOCK, opening a named pipe would wait for its writer.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) fail(path, "cannot be opened");
  struct stat status{};
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    throw FileError(path, "is not a regular file");
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

InputFile::~InputFile() { ::close(descriptor_); }

void InputFile::read(uint64_t offset, std::span<std::byte> to) const {
  while (!to.empty()) {
    const ssize_t count = ::pread(descriptor_, to.data(), to.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(path_, "cannot be read");
    if (count == 0) throw FileError(path_, fmt::format("ends at byte {}", offset));
    offset += static_cast<uint64_t>(count);
    to = to.subspan(static_cast<size_t>(count));
  }
}

std::vector<std::byte> InputFile::head(uint64_t count) const {
  std::vector<std::byte> bytes(std::min(count, size_));
  read(0, bytes);
  return bytes;
}

OutputFile::OutputFile(const std::string& path) : path_(path) {
  static std::atomic<int> serial{0};
  temporary_ = fmt::format("{}.tmp-{}-{}", path, ::getpid(), serial++);
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail(path, "cannot be written");
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void OutputFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(path_, "cannot be written");
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

void OutputFile::close() {
  if (descriptor_ < 0) return;
  const bool synced = ::fsync(descriptor_) == 0;
  const bool closed = ::close(std::exchange(descriptor_, -1)) == 0;
  if (!synced || !closed) fail(path_, "cannot be written");
}

void OutputFile::commit() {
  close();
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, "cannot be written");
  temporary_.clear();
}

void try_writing(const std::string& path) {
  std::error_code not_there;
  const auto status = std::filesystem::status(path, not_there);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    throw FileError(path, "is not a regular file");
  }
  const OutputFile file(path);
}

}  // namespace fa::io
