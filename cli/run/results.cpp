#include "run/results.hpp"

#include <fmt/format.h>

#include <filesystem>
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

void ResultPath::try_writing() const {
  if (folder_) {
    const NewFolder folder(path_);
    const io::OutputFile file((fs::path(path_) / "out.npy").string());
  } else {
    if (fs::is_directory(path_)) throw io::FileError(path_, "is a folder");
    const io::OutputFile file(path_);
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
  for (const auto& [name, array] : results) {
    const std::string path = (fs::path(path_) / (name + ".npy")).string();
    io::write_npy(files.emplace_back(path), path, *array);
    files.back().close();
  }
  for (io::OutputFile& file : files) file.commit();
  folder.keep();
}

}  // namespace fa::cli
