#include "cuda/runtime/disk_cache.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <memory>
#include <string_view>
#include <thread>

#include "system/environment.hpp"
#include "system/shown.hpp"

namespace fa::cuda {

using system::File, system::read_all, system::temporary_name, system::write_all;

namespace {

constexpr std::string_view suffix = ".cubin";
constexpr std::string_view temporary_suffix = ".tmp";
// A process that was killed while it wrote leaves its temporary file behind.
constexpr time_t leftover_seconds = 3600;

/// Before the code in an entry's file.
struct EntryHeader {
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

/// Why no folder is to be made at `path`; empty where one may be: root (with the HOME that sudo
/// left, say) would lock the owner of the folder around it out of what is made there.
std::string foreign_ground(std::string path) {
  struct stat status{};
  while (stat(path.c_str(), &status) != 0) {
    if (path.size() <= 1) return {};
    path.erase(std::max<size_t>(1, path.rfind('/')));
  }
  if (status.st_uid == geteuid() || status.st_uid == 0) return {};
  return fmt::format("it is not there, and {} belongs to user {}, not to {}", system::shown(path),
                     status.st_uid, geteuid());
}

/// Calls visit(name, status) for each file of a folder.
template <typename Visit>
void each_file(int directory, Visit visit) {
  // A description of its own: reading moves its position.
  const int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
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

DiskCache::DiskCache(const std::string& folder, Ground ground) : folder_(folder) {
  while (folder_.size() > 1 && folder_.back() == '/') folder_.pop_back();  // "link/" is followed
  struct stat status{};
  if (ground == Ground::own && stat(folder_.c_str(), &status) != 0) {
    state_->problem = foreign_ground(folder_);
  }
}

DiskCache DiskCache::of_environment() {
  const auto unused = [](const std::string& problem) {
    DiskCache cache;
    cache.state_->problem = problem;
    return cache;
  };
  if (system::variable("FA_CACHE") == "0") return unused("FA_CACHE is 0");
  std::string relative;
  const std::string named = system::folder_variable("FA_CACHE_DIR", relative);
  if (!relative.empty()) return unused(relative);
  if (!named.empty()) return DiskCache(named);
  const std::string caches = system::folder_variable("XDG_CACHE_HOME", relative);
  if (!caches.empty()) return DiskCache(caches + "/fa-kernels", Ground::own);
  const std::string home = system::folder_variable("HOME", relative);
  if (!home.empty()) return DiskCache(home + "/.cache/fa-kernels", Ground::own);
  return unused("neither FA_CACHE_DIR nor XDG_CACHE_HOME nor HOME names a folder");
}

std::string DiskCache::problem() const {
  directory(Missing::stays);
  const std::lock_guard lock(state_->mutex);
  return state_->problem;
}

int DiskCache::directory(Missing missing) const {
  const std::lock_guard lock(state_->mutex);
  struct stat status{};
  if (!state_->directory.is_open() && state_->problem.empty()) {
    const bool is_missing = lstat(folder_.c_str(), &status) != 0 && errno == ENOENT;
    if (is_missing && missing == Missing::is_made) make_folders(folder_);
    if (!is_missing || missing == Missing::is_made) open();
  }
  return state_->directory.fd();
}

void DiskCache::open() const {
  File directory(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  std::string& problem = state_->problem;
  struct stat status{};
  if (!directory.is_open() || fstat(directory.fd(), &status) != 0) {
    problem = fmt::format("{} (it must be a folder, not a link)", std::strerror(errno));
  } else if (status.st_uid != geteuid()) {
    problem = fmt::format("it belongs to user {}, not to {}", status.st_uid, geteuid());
  } else if ((status.st_mode & 077) != 0) {
    problem = fmt::format("others may enter it: its mode is {:04o} and must be 0700",
                          status.st_mode & 07777);
  } else {
    state_->directory = std::move(directory);
  }
}

std::optional<std::vector<char>> DiskCache::load(const Digest& key) const {
  const int folder = directory(Missing::stays);
  if (folder < 0) return {};
  const std::string name = entry_name(key);
  const File file(openat(folder, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!file.is_open() && errno == ENOENT) return {};
  const auto read = [&]() -> std::optional<std::vector<char>> {
    struct stat status{};
    if (!file.is_open() || fstat(file.fd(), &status) != 0 || !S_ISREG(status.st_mode) ||
        status.st_uid != geteuid()) {
      return {};
    }
    const EntryHeader wanted;
    EntryHeader header;
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
  if (!code) unlinkat(folder, name.c_str(), 0);
  return code;
}

void DiskCache::store(const Digest& key, std::span<const char> code) const {
  const int folder = directory(Missing::is_made);
  if (folder < 0) return;
  EntryHeader header;
  header.key = key;
  header.bytes = code.size();
  header.checksum = digest({code.data(), code.size()});
  const std::string temporary = temporary_name(key.hex());
  File file(openat(folder, temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                   0600));
  if (!file.is_open()) return;
  const bool written = write_all(file, {reinterpret_cast<const char*>(&header), sizeof header}) &&
                       write_all(file, code) && file.close() &&
                       renameat(folder, temporary.c_str(), folder, entry_name(key).c_str()) == 0;
  if (!written) unlinkat(folder, temporary.c_str(), 0);
  remove_leftovers(folder);
}

void DiskCache::remove_leftovers(int directory) {
  const time_t now = time(nullptr);
  each_file(directory, [&](std::string_view name, const struct stat& status) {
    if (name.ends_with(temporary_suffix) && now - status.st_mtime > leftover_seconds) {
      unlinkat(directory, std::string(name).c_str(), 0);
    }
  });
}

File DiskCache::lock(const Digest& key, double seconds) const {
  const int folder = directory(Missing::is_made);
  if (folder < 0) return File();
  // 256 files serve all kernels, so that they need not be removed, which cannot be done without a
  // race.
  const std::string name = fmt::format("lock.{:02x}", key.low & 0xff);
  File file(
      openat(folder, name.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
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
  const int folder = directory(Missing::stays);
  if (folder < 0) return usage;
  each_file(folder, [&](std::string_view name, const struct stat& status) {
    if (!name.ends_with(suffix)) return;
    ++usage.entries;
    usage.bytes += status.st_size;
  });
  return usage;
}

}  // namespace fa::cuda
