// Where NVRTC is looked for, on folders of empty files: nothing is opened.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "cuda/runtime/nvrtc_search.hpp"
#include "cuda_folder.hpp"
#include "fa/attention.hpp"

namespace {

using namespace fa;
using namespace fa::cuda;
using namespace fa::test;

class NvrtcSearchTest : public testing::Test {
 protected:
  NvrtcSearchTest() {
    for (const char* name : {"FA_NVRTC", "CUDA_HOME", "CUDA_PATH"}) unsetenv(name);
  }

  std::string make(const std::string& folder, const std::string& name) const {
    std::filesystem::create_directories(folder_ / folder);
    const std::string path = folder_ / folder + "/" + name;
    write_file(path, "");
    return std::filesystem::canonical(path);
  }

  static std::string first(int newest_major) { return search_nvrtc(newest_major).files.at(0); }

  static std::string error_of(int newest_major) {
    try {
      search_nvrtc(newest_major);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  Folder folder_;
};

TEST_F(NvrtcSearchTest, TakesTheNewestThatTheDriverHas) {
  const std::string cuda13 = make("cuda/lib64", "libnvrtc.so.13");
  const std::string cuda12 = make("cuda/lib64", "libnvrtc.so.12");
  make("cuda/lib64", "libnvrtc.so.11.2");
  make("cuda/lib64", "libnvrtc-builtins.so.13.0");
  setenv("CUDA_HOME", (folder_ / "cuda").c_str(), 1);
  EXPECT_EQ(first(0), cuda13);
  EXPECT_EQ(first(13), cuda13);
  EXPECT_EQ(first(12), cuda12);
  bool told = false;
  for (const std::string& miss : search_nvrtc(12).misses) {
    told |= miss == cuda13 + " (of CUDA 13, newer than the driver's 12)";
  }
  EXPECT_TRUE(told);
}

TEST_F(NvrtcSearchTest, TakesOnlyWhatFaNvrtcNames) {
  const std::string file = make("named", "libnvrtc.so.12.8.93");
  std::filesystem::create_symlink(file, folder_ / "named/libnvrtc.so.12");
  make("cuda/lib64", "libnvrtc.so.13");
  setenv("CUDA_PATH", (folder_ / "cuda").c_str(), 1);
  for (const char* name :
       {"named", "named/", "named/libnvrtc.so.12", "named/libnvrtc.so.12.8.93"}) {
    setenv("FA_NVRTC", (folder_ / name).c_str(), 1);
    EXPECT_EQ(search_nvrtc(13).files, std::vector<std::string>{file}) << name;
  }
  EXPECT_EQ(search_nvrtc(12).files.size(), 1U);
  EXPECT_EQ(error_of(11), "FA_NVRTC: " + file + " (of CUDA 12, newer than the driver's 11)");
  setenv("FA_NVRTC", (folder_ / "cuda").c_str(), 1);
  EXPECT_EQ(error_of(13), "FA_NVRTC: no libnvrtc.so.12 or later in " + (folder_ / "cuda"));
  setenv("FA_NVRTC", (folder_ / "none").c_str(), 1);
  EXPECT_EQ(error_of(13), "FA_NVRTC: \"" + (folder_ / "none") + "\" does not exist");
}

TEST_F(NvrtcSearchTest, TakesNoRelativeToolkit) {
  const std::string file = make("cuda/lib64", "libnvrtc.so.13");
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    const auto here = std::filesystem::current_path();
    std::filesystem::current_path(folder_ / "cuda");
    setenv(variable, ".", 1);
    const NvrtcSearch found = search_nvrtc(0);
    std::filesystem::current_path(here);
    EXPECT_EQ(std::ranges::count(found.files, file), 0) << variable;
    EXPECT_EQ(std::ranges::count(found.misses,
                                 std::string(variable) +
                                     ": \".\" is a relative path, which is not used; it must "
                                     "begin with /"),
              1)
        << variable;
    unsetenv(variable);
  }
}

TEST_F(NvrtcSearchTest, AsksTheLoaderLast) {
  const auto files = search_nvrtc(12).files;
  EXPECT_EQ(files.back(), "libnvrtc.so.12");
  EXPECT_EQ(nvrtc_major("/a/libnvrtc.so.12.9.86"), 12);
  EXPECT_EQ(nvrtc_major("libnvrtc.so.13"), 13);
  EXPECT_EQ(nvrtc_major("/a/libnvrtc-builtins.so.13.0"), 0);
  EXPECT_EQ(nvrtc_major("/libnvrtc.so.13/other"), 0);
}

}  // namespace
