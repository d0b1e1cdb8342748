#include "run/results.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <optional>
#include <system_error>
#include <vector>

#include "common/exit.hpp"
#include "io/error.hpp"
#include "io/npy.hpp"
#include "io/safetensors.hpp"

namespace fa::cli {
namespace {

namespace fs = std::filesystem;

/// A folder that disappears again, if it was made here, unless it is kept.
class NewFolder {
 public:
  explicit NewFolder(const std::string& path) : path_(path) {
    std::error_code error;
    made_ = fs::create_directory(path, error);
    if (error || !fs::is_directory(path)) {
      throw io::FileError(path, "is not a folder and cannot be made one");
    }
  }
  ~NewFolder() {
    std::error_code ignored;
    if (made_) fs::remove(path_, ignored);
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  void keep() { made_ = false; }

 private:
  std::string path_;
  bool made_ = false;
};

}  // namespace

ResultPath::ResultPath(std::string path)
    : path_(std::move(path)), folder_(!path_.ends_with(".safetensors")) {
  if (path_.ends_with(".npy")) {
    throw UsageError(
        fmt::format("--out: \"{}\": there are several results; name a folder for "
                    ".npy files, or FILE.safetensors",
                    path_));
  }
}

std::string ResultPath::file_of(const NamedArray& result) const {
  return folder_ ? (fs::path(path_) / (result.first + ".npy")).string() : path_;
}

void ResultPath::try_writing(std::span<const NamedArray> results,
                             std::span<const std::string> inputs) const {
  std::optional<NewFolder> folder;
  if (folder_) folder.emplace(path_);
  for (const NamedArray& result : results) {
    const std::string file = file_of(result);
    for (const std::string& input : inputs) {
      std::error_code not_there;
      if (fs::equivalent(input, file, not_there)) {
        throw UsageError(fmt::format("--out: \"{}\" is an input", file));
      }
    }
    io::try_writing(file);
  }
}

void ResultPath::write(std::span<const NamedArray> results) const {
  if (folder_) return write_folder(results);
  io::OutputFile file(path_);
  io::write_safetensors(file, results);
  file.commit();
}

void ResultPath::write_folder(std::span<const NamedArray> results) const {
  NewFolder folder(path_);
  std::vector<io::OutputFile> files;
  for (const NamedArray& result : results) {
    const std::string path = file_of(result);
    io::write_npy(files.emplace_back(path), path, *result.second);
    files.back().close();
  }
  for (io::OutputFile& file : files) file.commit();
  folder.keep();
}

}  // namespace fa::cli
