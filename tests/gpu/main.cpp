// Without a device the program says so and exits with 77, or with 1 where FA_REQUIRE_GPU=1.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "check/cuda_accelerator.hpp"
#include "fa/attention.hpp"

namespace {

constexpr int skipped = 77;

bool required() {
  const char* value = std::getenv("FA_REQUIRE_GPU");
  return value != nullptr && std::string(value) == "1";
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc > 1) {
    fmt::print(stderr, "gpu_test: what is {}? It takes GoogleTest's options alone\n", argv[1]);
    return 2;
  }
  if (testing::GTEST_FLAG(list_tests)) return RUN_ALL_TESTS();
  const std::string reason = fa::check::no_cuda_reason();
  if (!reason.empty()) {
    fmt::print(stderr, "gpu_test {}: it needs a CUDA device; {}\n",
               required() ? "FAILED" : "is skipped", reason);
    return required() ? 1 : skipped;
  }
  fmt::print("{}\n", fa::check::cuda_text(0));
  return RUN_ALL_TESTS();
}
