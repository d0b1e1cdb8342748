#include "cuda/disk_cache.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <string_view>
#include <thread>

namespace fa::cuda {

namespace {

constexpr std::string_view suffix = ".cubin";
constexpr std::string_view temporary_suffix = ".tmp";
// A process that was killed while it wrote leaves its temporary file behind.
constexpr time_t leftover_seconds = 3600;

/// Before the code in an entry's file.
struct Header {
  char magic[8] = {'F', 'A', 'k', 'e', 'r', 'n', 'e', 'l'};
  uint64_t version = 1;
  Digest key;
  uint64_t bytes = 0;
  Digest checksum;
};

std::string entry_name(const Digest& key) { return key.hex() + std::string(suffix); }

void make_folders(const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    mkdir(path.substr(0, slash).c_str(), 0700);
  }
  mkdir(path.c_str(), 0700);
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// Calls visit(name, status) for each file of a folder.
template <typename Visit>
void each_file(const File& directory, Visit visit) {
  // A description of its own: reading moves its position.
  const int fd = openat(directory.fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  const std::unique_ptr<DIR, int (*)(DIR*)> files(fdopendir(fd), closedir);
  if (files == nullptr) return;
  while (const dirent* entry = readdir(files.get())) {
    struct stat status{};
    if (fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0) {
      visit(std::string_view(entry->d_name), status);
    }
  }
}

}  // namespace

DiskCache::DiskCache(const std::string& folder) : folder_(folder) { open(); }

DiskCache DiskCache::of_environment() {
  const auto unused = [](const char* problem) {
    DiskCache cache;
    cache.problem_ = problem;
    return cache;
  };
  if (variable("FA_CACHE") == "0") return unused("FA_CACHE is 0");
  const std::string named = variable("FA_CACHE_DIR");
  if (!named.empty()) return DiskCache(named);
  const std::string caches = variable("XDG_CACHE_HOME");
  if (caches.starts_with('/')) return DiskCache(caches + "/fa-kernels");
  const std::string home = variable("HOME");
  if (home.starts_with('/')) return DiskCache(home + "/.cache/fa-kernels");
  return unused("neither FA_CACHE_DIR nor XDG_CACHE_HOME nor HOME names a folder");
}

void DiskCache::open() {
  while (folder_.size() > 1 && folder_.back() == '/') folder_.pop_back();  // "link/" is followed
  make_folders(folder_);
  File directory(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat status{};
  if (!directory.is_open() || fstat(directory.fd(), &status) != 0) {
    problem_ = fmt::format("{} (it must be a folder, not a link)", std::strerror(errno));
  } else if (status.st_uid != geteuid()) {
    problem_ = fmt::format("it belongs to user {}, not to {}", status.st_uid, geteuid());
  } else if ((status.st_mode & 077) != 0) {
    problem_ = fmt::format("others may enter it: its mode is {:04o} and must be 0700",
                           status.st_mode & 07777);
  } else {
    directory_ = std::move(directory);
  }
}

std::optional<std::vector<char>> DiskCache::load(const Digest& key) const {
  if (!directory_.is_open()) return {};
  const std::string name = entry_name(key);
  const File file(
      openat(directory_.fd(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!file.is_open() && errno == ENOENT) return {};
  const auto read = [&]() -> std::optional<std::vector<char>> {
    struct stat status{};
    if (!file.is_open() || fstat(file.fd(), &status) != 0 || !S_ISREG(status.st_mode) ||
        status.st_uid != geteuid()) {
      return {};
    }
    const Header wanted;
    Header header;
    if (!read_all(file, {reinterpret_cast<char*>(&header), sizeof header}, 0) ||
        std::memcmp(header.magic, wanted.magic, sizeof wanted.magic) != 0 ||
        header.version != wanted.version || header.key != key ||
        header.bytes != static_cast<uint64_t>(status.st_size) - sizeof header) {
      return {};
    }
    std::vector<char> code(header.bytes);
    if (!read_all(file, code, sizeof header) ||
        digest({code.data(), code.size()}) != header.checksum) {
      return {};
    }
    return code;
  };
  std::optional<std::vector<char>> code = read();
  if (!code) unlinkat(directory_.fd(), name.c_str(), 0);
  return code;
}

void DiskCache::store(const Digest& key, std::span<const char> code) const {
  if (!directory_.is_open()) return;
  Header header;
  header.key = key;
  header.bytes = code.size();
  header.checksum = digest({code.data(), code.size()});
  const std::string temporary = temporary_name(key.hex());
  File file(openat(directory_.fd(), temporary.c_str(),
                   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.is_open()) return;
  const bool written =
      write_all(file, {reinterpret_cast<const char*>(&header), sizeof header}) &&
      write_all(file, code) && file.close() &&
      renameat(directory_.fd(), temporary.c_str(), directory_.fd(), entry_name(key).c_str()) == 0;
  if (!written) unlinkat(directory_.fd(), temporary.c_str(), 0);
  remove_leftovers();
}

void DiskCache::remove_leftovers() const {
  const time_t now = time(nullptr);
  each_file(directory_, [&](std::string_view name, const struct stat& status) {
    if (name.ends_with(temporary_suffix) && now - status.st_mtime > leftover_seconds) {
      unlinkat(directory_.fd(), std::string(name).c_str(), 0);
    }
  });
}

File DiskCache::lock(const Digest& key, double seconds) const {
  if (!directory_.is_open()) return File();
  // 256 files serve all kernels, so that they need not be removed, which cannot be done without a
  // race.
  const std::string name = fmt::format("lock.{:02x}", key.low & 0xff);
  File file(openat(directory_.fd(), name.c_str(),
                   O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
  if (!file.is_open()) return file;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (flock(file.fd(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return File();
    // Not a lock that waits: its holder may be stopped, and would stop everyone.
    if (std::chrono::steady_clock::now() >= end) return File();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return file;
}

DiskCache::Usage DiskCache::usage() const {
  Usage usage;
  if (!directory_.is_open()) return usage;
  each_file(directory_, [&](std::string_view name, const struct stat& status) {
    if (!name.ends_with(suffix)) return;
    ++usage.entries;
    usage.bytes += status.st_size;
  });
  return usage;
}

}  // namespace fa::cuda
