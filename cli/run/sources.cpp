#include "run/sources.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <utility>

#include "common/exit.hpp"
#include "support/io/npy.hpp"
#include "system/shown.hpp"

namespace fa::cli {
namespace {

constexpr std::string_view safetensors_colon = ".safetensors:";

io::Array to_int32(const std::string& flag, const io::Array& wide) {
  io::Array narrow(int32, wide.shape());
  const auto* from = wide.as<int64_t>();
  for (int64_t i = 0; i < wide.elements(); ++i) {
    if (from[i] < INT32_MIN || from[i] > INT32_MAX) {
      throw UsageError(fmt::format("{}: element {} is {}; lengths are int32", flag, i, from[i]));
    }
    narrow.as<int32_t>()[i] = static_cast<int32_t>(from[i]);
  }
  return narrow;
}

}  // namespace

Sources::Sources(std::string default_file) : default_file_(std::move(default_file)) {
  if (!default_file_.empty()) open(default_file_);
}

const io::Safetensors& Sources::open(const std::string& path) {
  auto& file = opened_[path];
  if (!file) {
    file = std::make_unique<io::Safetensors>(path);
    files_.push_back(path);
  }
  return *file;
}

io::Array Sources::read(const std::string& flag, const std::string& source) {
  if (source.empty()) return {};
  io::Array array;
  const size_t colon = source.find(safetensors_colon);
  if (colon != source.npos) {
    const size_t name = colon + safetensors_colon.size();
    array = open(source.substr(0, name - 1)).read(source.substr(name));
  } else if (source.ends_with(".npy")) {
    array = io::read_npy(source);
    files_.push_back(source);
  } else if (!default_file_.empty()) {
    array = open(default_file_).read(source);
  } else {
    throw UsageError(
        fmt::format("{}: \"{}\" is neither FILE.npy nor FILE.safetensors:NAME, and "
                    "a bare name needs --tensors",
                    flag, system::shown(source)));
  }
  if (array.shape().empty()) throw UsageError(flag + ": is a single number, not a tensor");
  return array;
}

io::Array Sources::read_lengths(const std::string& flag, const std::string& source) {
  io::Array array = read(flag, source);
  return array.dtype() == int64 ? to_int32(flag, array) : std::move(array);
}

}  // namespace fa::cli
