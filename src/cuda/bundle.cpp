#include "cuda/bundle.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>

#include "fa/attention.hpp"

namespace fa::cuda {

namespace {

// The file: header, index in the order of the keys, code.
struct Header {
  char magic[8] = {'F', 'A', 'b', 'u', 'n', 'd', 'l', 'e'};
  uint64_t version = 1;
  Digest sources;
  uint64_t count = 0;
  Digest index_checksum;  // of the sources' digest as well
};

std::string_view bytes_of(const std::vector<Bundle::Place>& index) {
  return {reinterpret_cast<const char*>(index.data()), index.size() * sizeof(Bundle::Place)};
}

[[noreturn]] void fail_to_write(const std::string& path, const std::string& why) {
  throw Error(Status::invalid_argument, fmt::format("bundle: cannot write {}: {}", path, why));
}

}  // namespace

void check_bundle_path(const std::string& path) {
  struct stat status{};
  if (stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    fail_to_write(path, "it is no plain file");
  }
  // Only making a file tells: permissions allow what a read-only disk or /proc then refuses.
  const std::string temporary = temporary_name(path);
  const File file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!file.is_open()) fail_to_write(path, std::strerror(errno));
  unlink(temporary.c_str());
}

int64_t write_bundle(const std::string& path, const Digest& sources,
                     const std::vector<BundleEntry>& entries) {
  check_bundle_path(path);
  std::vector<const BundleEntry*> sorted;
  for (const BundleEntry& entry : entries) sorted.push_back(&entry);
  const auto key = [](const BundleEntry* entry) { return entry->key; };
  std::ranges::sort(sorted, {}, key);
  const auto repeated = std::ranges::unique(sorted, {}, key);
  sorted.erase(repeated.begin(), repeated.end());

  std::vector<Bundle::Place> index;
  uint64_t offset = sizeof(Header) + sorted.size() * sizeof(Bundle::Place);
  for (const BundleEntry* entry : sorted) {
    const std::vector<char>& code = entry->code;
    index.push_back({entry->key, offset, code.size(), digest({code.data(), code.size()})});
    offset += code.size();
  }
  Header header;
  header.sources = sources;
  header.count = index.size();
  header.index_checksum = digest(bytes_of(index), sources);

  const std::string temporary = temporary_name(path);
  File file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!file.is_open()) fail_to_write(path, std::strerror(errno));
  bool written = write_all(file, {reinterpret_cast<const char*>(&header), sizeof header}) &&
                 write_all(file, bytes_of(index));
  for (const BundleEntry* entry : sorted) written = written && write_all(file, entry->code);
  written = written && file.close() && std::rename(temporary.c_str(), path.c_str()) == 0;
  if (!written) {
    const std::string why = std::strerror(errno);
    unlink(temporary.c_str());
    fail_to_write(path, why);
  }
  return static_cast<int64_t>(offset);
}

Bundle::Bundle(const std::string& path)
    : path_(path), file_(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
  struct stat status{};
  if (!file_.is_open() || fstat(file_.fd(), &status) != 0) fail(std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail("it is no plain file");
  const auto file_bytes = static_cast<uint64_t>(status.st_size);
  const Header wanted;
  Header header;
  if (!read_all(file_, {reinterpret_cast<char*>(&header), sizeof header}, 0) ||
      std::memcmp(header.magic, wanted.magic, sizeof wanted.magic) != 0) {
    fail("it is no bundle of kernels");
  }
  if (header.version != wanted.version) {
    fail(fmt::format("its format is version {}; this library reads {}", header.version,
                     wanted.version));
  }
  if (header.count > (file_bytes - sizeof header) / sizeof(Place)) fail("it is truncated");
  sources_ = header.sources;
  index_.resize(header.count);
  if (!read_all(file_, {reinterpret_cast<char*>(index_.data()), index_.size() * sizeof(Place)},
                sizeof header)) {
    fail("it is truncated");
  }
  if (digest(bytes_of(index_), sources_) != header.index_checksum) fail("its index is damaged");
  for (const Place& place : index_) {
    if (place.offset > file_bytes || place.bytes > file_bytes - place.offset) {
      fail("it is truncated");
    }
  }
}

std::vector<Bundle> Bundle::of_environment() {
  std::vector<Bundle> bundles;
  const char* value = std::getenv("FA_BUNDLE");
  std::string_view left = value == nullptr ? "" : value;
  while (!left.empty()) {
    const std::string_view path = left.substr(0, left.find(':'));
    if (!path.empty()) bundles.emplace_back(std::string(path));
    left.remove_prefix(std::min(left.size(), path.size() + 1));
  }
  return bundles;
}

std::optional<std::vector<char>> Bundle::load(const Digest& key) const {
  const auto found = std::ranges::lower_bound(index_, key, {}, &Place::key);
  if (found == index_.end() || found->key != key) return {};
  std::vector<char> code(found->bytes);
  if (!read_all(file_, code, found->offset) ||
      digest({code.data(), code.size()}) != found->checksum) {
    fail("a kernel in it is damaged");
  }
  return code;
}

void Bundle::fail(const std::string& why) const {
  throw Error(Status::invalid_argument, fmt::format("FA_BUNDLE: {}: {}", path_, why));
}

}  // namespace fa::cuda
