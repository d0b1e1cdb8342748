// fa compile with a real NVRTC (tools/with_nvrtc), on the kernels that cuda_compile_test has in its
// cache.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "program.hpp"

namespace fa::test {
namespace {

constexpr const char* cached = "FA_BUNDLE= FA_CACHE_DIR='" FA_TEST_CACHE "'";

TEST(Compile, WritesNoBundleBesideWhatItCannotPrint) {
  const TemporaryFolder folder;
  const int status =
      std::system((std::string(cached) + " '" FA_PROGRAM "' compile --arch sm_90a -o " +
                   (folder / "kernels.fab") + " >/dev/full 2>&1")
                      .c_str());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 2);
  EXPECT_EQ(folder.entries(), 0U);
}

TEST(Compile, WritesABundleAndTellsWhatItsKernelsTake) {
  const TemporaryFolder folder;
  const std::string bundle = folder / "kernels.fab", json = folder / "kernels.json";
  const Ended made =
      fa("compile --arch sm_90a --verbose -o '" + bundle + "' --json '" + json + "'", cached);
  ASSERT_EQ(made.code, 0) << made.err;

  const Ended list = fa("compile --arch sm_90a --list");
  const auto lines = std::ranges::count(list.out, '\n');
  EXPECT_TRUE(contains(fa("info", "FA_BUNDLE='" + bundle + "'").out,
                       bundle + ", " + std::to_string(lines) + " kernels"));

  const auto kernels = nlohmann::json::parse(read_bytes(json));
  EXPECT_EQ(static_cast<int64_t>(kernels.size()), lines);
  for (const auto& kernel : kernels) {
    EXPECT_EQ(kernel["arch"], "sm_90a");
    EXPECT_TRUE(contains(list.out, kernel["constants"])) << kernel;
    EXPECT_GT(kernel["registers"], 16);
    EXPECT_LE(kernel["registers"], 255);
    EXPECT_GE(kernel["spill_bytes"], 0);
    EXPECT_GE(kernel["blocks_per_sm"], 1);
    // The table has the same in a line, without what all kernels of the name are compiled with.
    EXPECT_TRUE(contains(made.out, kernel["name"]));
  }
  EXPECT_TRUE(contains(made.out, "fa_sm80_forward: all with "));
  EXPECT_TRUE(contains(made.out, "fa_sm90_forward: all with "));
  EXPECT_TRUE(contains(made.out, "registers  spilled   shared blocks/SM"));
  EXPECT_TRUE(made.out.starts_with(std::to_string(lines) + " kernels in ")) << made.out;
  EXPECT_TRUE(contains(made.out, "\n" + bundle + ": ")) << made.out;
  // The time, what all kernels of a name have (two families' forward ones, and those that join
  // splits and shares), the table's head and rows, the size.
  EXPECT_EQ(std::ranges::count(made.out, '\n'), 1 + 4 + 1 + lines + 1) << made.out;
}

/// Before anything is compiled, which would fail for another reason: there is no compiler.
TEST(Compile, SaysWhereItCannotWrite) {
  const TemporaryFolder folder;
  const std::string bundle = folder / "kernels.fab";
  const auto refused = [&](const std::string& flags, const std::string& message) {
    const Ended made = fa("compile --arch sm_90a " + flags, "FA_BUNDLE= FA_CACHE=0 FA_NVRTC=/none");
    EXPECT_EQ(made.code, 2) << flags;
    EXPECT_TRUE(contains(made.err, message)) << flags << made.err;
  };
  refused("-o " + bundle, "FA_NVRTC");
  refused("-o /none/kernels.fab", "/none/kernels.fab: ");
  refused("-o /proc/kernels.fab", "/proc/kernels.fab: ");
  refused("-o " + folder.path(), folder.path() + ": ");
  refused("-o " + bundle + " --json /none/kernels.json", "/none/kernels.json: ");
  refused("-o " + bundle + " --json " + folder.path(), folder.path() + ": ");
  refused("-o " + bundle + " --json " + (folder / "./kernels.fab"), "--json: ");
  EXPECT_EQ(folder.entries(), 0U);
}

TEST(Compile, ListsAndDoesNothingElse) {
  const TemporaryFolder folder;
  for (const std::string other : {"--json", "-o"}) {
    const Ended made = fa("compile --list --arch sm_90a " + other + " '" + (folder / "x") + "'");
    EXPECT_EQ(made.code, 2) << made.out;
    EXPECT_TRUE(contains(made.err, other + ": not with --list")) << made.err;
  }
  const Ended verbose = fa("compile --list --arch sm_90a --verbose");
  EXPECT_EQ(verbose.code, 2) << verbose.out;
  EXPECT_TRUE(contains(verbose.err, "--verbose: not with --list")) << verbose.err;
  EXPECT_EQ(fa("compile --list --arch sm_90a --json /nonexist/x").code, 2);
  EXPECT_EQ(folder.entries(), 0U);
}

TEST(Compile, CountsAnArchitectureOnce) {
  const std::string once = fa("compile --arch sm_80 --list").out;
  EXPECT_FALSE(once.empty());
  EXPECT_EQ(fa("compile --arch sm_80,sm_80 --list").out, once);
  EXPECT_EQ(fa("compile --arch sm_80 --arch sm_80 --list").out, once);
}

TEST(Compile, NamesAnEmptyArchitecture) {
  for (const std::string archs : {"sm_80,,", "sm_80,", ",sm_80", "sm_80,,sm_86", ","}) {
    const Ended made = fa("compile --list --arch " + archs);
    EXPECT_EQ(made.code, 2) << archs;
    EXPECT_TRUE(contains(made.err, "--arch: \"" + archs + "\" has an empty entry")) << made.err;
  }
}

}  // namespace
}  // namespace fa::test
