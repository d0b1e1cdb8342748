// Loops over threads, and what they do when no threads can be had.
#include "cuda/runtime/parallel.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace {

using fa::cuda::parallel_for;

TEST(Parallel, RunsEveryTurnOnceAndThrowsTheFirstError) {
  std::atomic<int64_t> sum{0};
  parallel_for(100, 7, [&](int64_t i) { sum += i; });
  EXPECT_EQ(sum, 4950);
  EXPECT_THROW(parallel_for(9, 3, [](int64_t) { throw std::runtime_error("x"); }),
               std::runtime_error);
}

/// In a process that may have no second thread: 0 when every turn ran on the first.
int without_threads() {
  // The limit does not hold for root.
  if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) return 2;
  const rlimit none{1, 1};
  if (setrlimit(RLIMIT_NPROC, &none) != 0) return 2;
  try {
    std::thread([] {}).join();
    return 2;
  } catch (const std::system_error& error) {
    if (error.code() != std::errc::resource_unavailable_try_again) return 2;
  }
  int64_t sum = 0;
  parallel_for(100, 4, [&](int64_t i) { sum += i; });
  return sum == 4950 ? 0 : 1;
}

TEST(Parallel, GoesOnWithTheThreadsThatThereAre) {
  const pid_t child = fork();
  if (child == 0) _exit(without_threads());
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 2) GTEST_SKIP() << "cannot forbid threads here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
