// A program with more rights than its caller does not read the variables that choose code and
// folders.
#include "system/environment.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "cuda/runtime/bundle.hpp"
#include "cuda/runtime/disk_cache.hpp"
#include "cuda/runtime/nvrtc_search.hpp"
#include "cuda_folder.hpp"

namespace {

using namespace fa;
using namespace fa::test;

constexpr const char* variables[] = {"FA_NVRTC",       "FA_BUNDLE", "FA_CACHE",  "FA_CACHE_DIR",
                                     "XDG_CACHE_HOME", "HOME",      "CUDA_HOME", "CUDA_PATH"};

TEST(Environment, TakesAbsoluteFoldersOnly) {
  std::string problem;
  setenv("FA_TEST_FOLDER", "/a", 1);
  EXPECT_EQ(system::folder_variable("FA_TEST_FOLDER", problem), "/a");
  EXPECT_EQ(system::folder_variable("FA_TEST_NOT_SET", problem), "");
  EXPECT_EQ(problem, "");
  setenv("FA_TEST_FOLDER", "a", 1);
  EXPECT_EQ(system::folder_variable("FA_TEST_FOLDER", problem), "");
  EXPECT_NE(problem, "");
}

/// Run by the next one as a set-uid program.
TEST(Environment, DISABLED_OfAPrivilegedProgram) {
  ASSERT_NE(getuid(), geteuid());
  for (const char* name : variables) {
    ASSERT_NE(std::getenv(name), nullptr);
    EXPECT_EQ(system::variable(name), "") << name;
  }
  EXPECT_TRUE(cuda::Bundle::of_environment().empty());
  EXPECT_EQ(cuda::DiskCache::of_environment().folder(), "");
  const cuda::NvrtcSearch found = cuda::search_nvrtc(0);
  EXPECT_FALSE(found.named);
  for (const std::string& file : found.files) EXPECT_FALSE(file.starts_with("/none")) << file;
  for (const std::string& file : found.misses) EXPECT_FALSE(file.starts_with("/none")) << file;
}

TEST(Environment, IsNotReadByAPrivilegedProgram) {
  if (geteuid() != 0) GTEST_SKIP() << "cannot make a set-uid program of another user";
  const Folder folder;
  const std::string program = folder / "program";
  std::filesystem::copy_file("/proc/self/exe", program);
  ASSERT_EQ(chmod(folder.path().c_str(), 0755), 0);
  ASSERT_EQ(chmod(program.c_str(), 04755), 0);
  const pid_t child = fork();
  if (child == 0) {
    for (const char* name : variables) setenv(name, "/none", 1);
    if (chdir("/") != 0 || setresgid(65534, 65534, 65534) != 0 ||
        setresuid(65534, 65534, 65534) != 0) {
      _exit(100);
    }
    execl(program.c_str(), "program", "--gtest_filter=*OfAPrivilegedProgram",
          "--gtest_also_run_disabled_tests", nullptr);
    _exit(101);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
