#include "support/io/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "support/io/error.hpp"

namespace fa::io {
namespace {

constexpr size_t most_at_once = size_t{16} << 20;  // some 10 ms, then a signal is noticed

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw FileError(path, fmt::format("{}: {}", what, std::strerror(errno)));
}

/// work(), whose errors then name the file.
template <typename Work>
auto writing(const std::string& path, Work work) {
  try {
    return work();
  } catch (const system::CannotWrite& error) {
    throw FileError(path, fmt::format("cannot be written: {}", error.what()));
  }
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

OutputFile::OutputFile(const std::string& path, const std::string& name)
    : name_(name), file_(writing(name, [&] { return system::Replacement(path); })) {}

void OutputFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (HeldSignals::any()) throw FileError(name_, "cannot be written: the program is to end");
    const auto part = bytes.first(std::min(bytes.size(), most_at_once));
    writing(name_, [&] { file_.write({reinterpret_cast<const char*>(part.data()), part.size()}); });
    bytes = bytes.subspan(part.size());
  }
}

void OutputFile::sync() {
  writing(name_, [&] { file_.sync(); });
}

void OutputFile::commit() {
  writing(name_, [&] { file_.commit(); });
}

OutputFolder::OutputFolder(const std::string& path)
    : path_(path), folder_(writing(path, [&] { return system::NewFolder(path); })) {}

void OutputFolder::commit() {
  writing(path_, [&] { folder_.commit(); });
}

void try_writing(const std::string& path) { const OutputFile file(path); }

void write_text(const std::string& path, const std::string& text) {
  OutputFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace fa::io
