#include "cuda/runtime/bundle.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <string_view>

#include "fa/attention.hpp"
#include "system/environment.hpp"
#include "system/replacement.hpp"
#include "system/shown.hpp"

namespace fa::cuda {

using system::read_all;

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

/// work(), whose errors then name the file.
template <typename Work>
auto writing(const std::string& path, Work work) {
  try {
    return work();
  } catch (const system::CannotWrite& error) {
    throw Error(Status::invalid_argument,
                fmt::format("bundle: cannot write {}: {}", system::shown(path), error.what()));
  }
}

}  // namespace

// Only making a file tells: permissions allow what a read-only disk or /proc then refuses.
void check_bundle_path(const std::string& path) {
  writing(path, [&] { return system::Replacement(path); });
}

int64_t write_bundle(const std::string& path, const Digest& sources,
                     const std::vector<BundleEntry>& entries) {
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

  writing(path, [&] {
    system::Replacement file(path);
    file.write({reinterpret_cast<const char*>(&header), sizeof header});
    file.write(bytes_of(index));
    for (const BundleEntry* entry : sorted) file.write(entry->code);
    file.commit();
  });
  return static_cast<int64_t>(offset);
}

Bundle::Bundle(const std::string& path)
    : path_(path), file_(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
  struct stat status{};
  if (!file_.is_open() || fstat(file_.fd(), &status) != 0) fail(std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail("it is not a regular file");
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
  const std::string value = system::variable("FA_BUNDLE");
  std::string_view left = value;
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
  throw Error(Status::invalid_argument,
              fmt::format("FA_BUNDLE: {}: {}", system::shown(path_), why));
}

}  // namespace fa::cuda
