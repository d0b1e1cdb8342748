#include "system/replacement.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <memory>
#include <string_view>
#include <utility>

namespace fa::system {

namespace {

namespace fs = std::filesystem;

// Where the file system has no locks, what is older than this is nobody's.
constexpr time_t leftover_seconds = 3600;
constexpr int most_links = 40;  // as the kernel's

[[noreturn]] void fail() { throw CannotWrite(std::strerror(errno)); }

/// The file that `path` leads to, which need not be there.
std::string target_of(fs::path path) {
  std::error_code error;
  for (int link = 0; fs::is_symlink(path, error); ++link) {
    if (link == most_links) throw CannotWrite(std::strerror(ELOOP));
    const fs::path target = fs::read_symlink(path, error);
    if (error) throw CannotWrite(error.message());
    path = path.parent_path() / target;  // an absolute one replaces all
  }
  return path.string();
}

/// The part of a temporary name before the random part, so short that the random part fits.
std::string stem_of(const fs::path& path) {
  const std::string name = path.filename().string();
  return (path.parent_path() / name.substr(0, NAME_MAX - temporary_tail)).string();
}

/// Whether nobody holds the lock that whoever writes it does; it is then held by `file`.
bool is_left(const File& file) {
  struct stat status{};
  if (!file.is_open() || fstat(file.fd(), &status) != 0 || status.st_uid != geteuid()) return false;
  if (flock(file.fd(), LOCK_EX | LOCK_NB) == 0) return true;
  return errno != EWOULDBLOCK && time(nullptr) - status.st_mtime > leftover_seconds;
}

/// A folder of files alone, as a NewFolder is before it has its name.
void remove_folder(const std::string& path) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(path, ignored)) {
    unlink(entry.path().c_str());
  }
  rmdir(path.c_str());
}

/// Removes the temporary files that killed processes left beside `path`.
void remove_leftovers(const fs::path& path) {
  const std::string stem = fs::path(stem_of(path)).filename().string();
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    if (!is_temporary_name(entry.path().filename().string(), stem)) continue;
    const File file(open(entry.path().c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!is_left(file)) continue;
    if (entry.is_directory(ignored)) {
      remove_folder(entry.path().string());
    } else {
      unlink(entry.path().c_str());
    }
  }
}

/// Calls make(name) until it gives a descriptor that is locked, unless the file system has no
/// locks.
template <typename Make>
File make_locked(const std::string& path, std::string& temporary, Make make) {
  remove_leftovers(path);
  for (;;) {
    temporary = temporary_name(stem_of(path));
    File file(make(temporary.c_str()));
    if (!file.is_open()) {
      if (errno == EEXIST) continue;
      temporary.clear();
      fail();
    }
    // Someone who removes leftovers may have come between.
    const bool taken = flock(file.fd(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    struct stat status{};
    if (!taken && fstat(file.fd(), &status) == 0 && status.st_nlink > 0) return file;
  }
}

}  // namespace

Replacement::Replacement(const std::string& path) : path_(target_of(path)) {
  struct stat old{};
  const bool there = stat(path_.c_str(), &old) == 0;
  if (there) {
    if (S_ISDIR(old.st_mode)) throw CannotWrite("it is a folder");
    if (!S_ISREG(old.st_mode)) throw CannotWrite("it is not a regular file");
    if (faccessat(AT_FDCWD, path_.c_str(), W_OK, AT_EACCESS) != 0) fail();
  }
  // Whom the old file is closed to must not read the new one before it has that mode.
  const mode_t mode = there ? 0600 : 0666;
  file_ = make_locked(path_, temporary_, [mode](const char* name) {
    return open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
  });
}

Replacement::Replacement(Replacement&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      file_(std::move(other.file_)) {}

Replacement::~Replacement() {
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

void Replacement::write(std::span<const char> bytes) {
  if (!write_all(file_, bytes)) fail();
}

void Replacement::sync() {
  if (fsync(file_.fd()) != 0) fail();
}

void Replacement::commit() {
  struct stat old{};
  if (stat(path_.c_str(), &old) == 0) {
    // Only root may give a file away; the mode comes after, since this clears parts of it.
    [[maybe_unused]] const int owned = fchown(file_.fd(), old.st_uid, old.st_gid);
    if (fchmod(file_.fd(), old.st_mode & 0777) != 0) fail();
  }
  sync();
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail();
  temporary_.clear();
  if (!file_.close()) fail();
}

NewFolder::NewFolder(const std::string& path) : path_(path) {
  while (path_.size() > 1 && path_.back() == '/') path_.pop_back();
  file_ = make_locked(path_, temporary_, [](const char* name) {
    if (mkdir(name, 0777) != 0) return -1;
    const int fd = open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0) return fd;
    const int why = errno;
    rmdir(name);
    errno = why == ENOENT ? EEXIST : why;  // taken away as a leftover: another name, then
    return -1;
  });
}

NewFolder::NewFolder(NewFolder&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      file_(std::move(other.file_)) {}

NewFolder::~NewFolder() {
  if (!temporary_.empty()) remove_folder(temporary_);
}

void NewFolder::commit() {
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail();
  temporary_.clear();
}

}  // namespace fa::system
