// fa compile with a real NVRTC (tools/with_nvrtc), on the kernels that cuda_compile_test has in its
// cache.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "program.hpp"

namespace fa::test {
namespace {

TEST(Compile, WritesABundleAndTellsWhatItsKernelsTake) {
  const TemporaryFolder folder;
  const std::string bundle = folder / "kernels.fab", json = folder / "kernels.json";
  const Ended made = fa("compile --arch sm_90a --verbose -o '" + bundle + "' --json '" + json + "'",
                        "FA_BUNDLE= FA_CACHE_DIR='" FA_TEST_CACHE "'");
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
  EXPECT_TRUE(contains(made.out, "registers  spilled   shared blocks/SM"));
  // What all forward and all combining kernels have, the table's head and rows, the summary.
  EXPECT_EQ(std::ranges::count(made.out, '\n'), 2 + 1 + lines + 1) << made.out;
}

TEST(Compile, SaysWhereItCannotWrite) {
  const Ended made = fa("compile --arch sm_90a -o /none/kernels.fab");
  EXPECT_EQ(made.code, 2) << made.err;
  EXPECT_TRUE(contains(made.err, "/none/kernels.fab")) << made.err;
}

}  // namespace
}  // namespace fa::test
