// A folder of a test's own, and the kernel that the tests of CUDA's run time compile.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/runtime/sources.hpp"
#include "plan/cuda/kernel_spec.hpp"

namespace fa::test {

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "fa-cuda-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make a folder");
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }

  std::vector<std::string> files(const std::string& suffix = "") const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      if (entry.path().filename().string().ends_with(suffix))
        names.push_back(entry.path().string());
    }
    return names;
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// Writes `value`, a constant of the program, through a header of another folder.
inline constexpr cuda::Source test_sources[] = {
    {"test/store.cuh", R"(#pragma once
#include "common/twice.h"
extern "C" __global__ void store(int* out) { *out = twice(value); }
)"},
    {"common/twice.h", R"(#pragma once
constexpr int twice(int x) { return 2 * x; }
)"},
};

/// What a program says that sets `value` and includes the source.
inline std::string test_program(const std::string& value) {
  return "constexpr int value = " + value + ";\n#include \"test/store.cuh\"\n";
}

inline KernelSpec test_spec(int value) {
  return {.entry = "store",
          .program = test_program(std::to_string(value)),
          .constants = {},
          .threads = 32};
}

}  // namespace fa::test
