#include "run/results.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include "common/exit.hpp"
#include "support/io/error.hpp"
#include "support/io/npy.hpp"
#include "support/io/safetensors.hpp"
#include "system/shown.hpp"

namespace fa::cli {
namespace {

namespace fs = std::filesystem;

std::string npy_name(const NamedArray& result) { return result.first + ".npy"; }

/// Throws UsageError where `file` is one of the `inputs`.
void keep_inputs(const std::string& file, std::span<const std::string> inputs) {
  for (const std::string& input : inputs) {
    std::error_code not_there;
    if (fs::equivalent(input, file, not_there)) {
      throw UsageError(fmt::format("--out: \"{}\" is an input", system::shown(file)));
    }
  }
}

}  // namespace

ResultPath::ResultPath(std::string path)
    : path_(std::move(path)), folder_(!path_.ends_with(".safetensors")) {
  if (path_.ends_with(".npy")) {
    throw UsageError(
        fmt::format("--out: \"{}\": there are several results; name a folder for "
                    ".npy files, or FILE.safetensors",
                    system::shown(path_)));
  }
}

bool ResultPath::is_there() const {
  std::error_code not_there;
  return fs::exists(fs::symlink_status(path_, not_there));
}

std::string ResultPath::file_of(const NamedArray& result) const {
  return (fs::path(path_) / npy_name(result)).string();
}

void ResultPath::try_writing(std::span<const NamedArray> results,
                             std::span<const std::string> inputs) const {
  if (!folder_) {
    keep_inputs(path_, inputs);
    io::try_writing(path_);
  } else if (!is_there()) {
    const io::OutputFolder folder(path_);
  } else {
    if (!fs::is_directory(path_)) throw io::FileError(path_, "is not a folder");
    for (const NamedArray& result : results) {
      keep_inputs(file_of(result), inputs);
      io::try_writing(file_of(result));
    }
  }
}

WrittenResults ResultPath::write(std::span<const NamedArray> results) const {
  WrittenResults written;
  if (!folder_) {
    io::write_safetensors(written.files_.emplace_back(path_), results);
    written.files_.back().sync();
    return written;
  }
  if (!is_there()) written.folder_.emplace(path_);
  for (const NamedArray& result : results) {
    const std::string name = file_of(result);
    const std::string path =
        written.folder_ ? (fs::path(written.folder_->temporary()) / npy_name(result)).string()
                        : name;
    io::write_npy(written.files_.emplace_back(path, name), name, *result.second);
    written.files_.back().sync();
    if (written.folder_) written.files_.back().commit();
  }
  return written;
}

void WrittenResults::commit() {
  if (folder_) {
    folder_->commit();
    return;
  }
  for (io::OutputFile& file : files_) file.commit();
}

}  // namespace fa::cli
