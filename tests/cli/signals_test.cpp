// Signals that end the program while it writes: nothing is left, or all is there.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <thread>

#include "files.hpp"
#include "support/io/error.hpp"
#include "support/io/file.hpp"
#include "support/io/npy.hpp"

namespace fa::test {
namespace {

TEST(HeldSignals, EndTheProgramWhenItsFilesAreGone) {
  const TemporaryFolder folder;
  EXPECT_EXIT(
      {
        io::OutputFolder results(folder / "results");
        std::vector<io::OutputFile> files;
        files.emplace_back(folder / "a");
        files.emplace_back(results.temporary() + "/b");
        raise(SIGTERM);
        for (io::OutputFile& file : files) EXPECT_THROW(file.write("x"), io::FileError);
      },
      testing::KilledBySignal(SIGTERM), "");
  EXPECT_EQ(folder.entries(), 0U);
}

TEST(HeldSignals, LetAFileBeFinished) {
  const TemporaryFolder folder;
  EXPECT_EXIT(
      {
        io::OutputFile file(folder / "a");
        file.write("all");
        raise(SIGINT);
        file.commit();
      },
      testing::KilledBySignal(SIGINT), "");
  EXPECT_EQ(read_bytes(folder / "a"), "all");
  EXPECT_EQ(folder.entries(), 1U);
}

/// As under nohup.
TEST(HeldSignals, StayIgnored) {
  const auto before = std::signal(SIGHUP, SIG_IGN);
  {
    const io::HeldSignals held;
    raise(SIGHUP);
    EXPECT_FALSE(io::HeldSignals::any());
  }
  std::signal(SIGHUP, before);
}

/// The write end of a pipe that takes no more, so that the program waits where it prints.
class FullPipe {
 public:
  FullPipe() {
    EXPECT_EQ(pipe2(ends_.data(), O_CLOEXEC), 0);
    fcntl(ends_[1], F_SETFL, O_NONBLOCK);
    while (write(ends_[1], "x", 1) == 1) {
    }
    fcntl(ends_[1], F_SETFL, 0);
  }
  ~FullPipe() {
    for (const int end : ends_) close(end);
  }
  FullPipe(const FullPipe&) = delete;
  FullPipe& operator=(const FullPipe&) = delete;
  int end() const { return ends_[1]; }

 private:
  std::array<int, 2> ends_{};
};

void wait_for_entries(const TemporaryFolder& folder, size_t count) {
  for (int i = 0; i < 2000 && folder.entries() < count; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  // `fa run` tries its paths first; by now it has written and prints.
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(folder.entries(), count);
}

/// Sends `signal` when the results are written and not yet named.
void end_a_run(const TemporaryFolder& folder, const std::string& out, int signal) {
  const FullPipe pipe;
  const size_t before = folder.entries();
  const std::string q = folder / "q.npy";
  const pid_t child = fork();
  if (child == 0) {
    dup2(pipe.end(), STDOUT_FILENO);
    execl(FA_PROGRAM, "fa", "run", "--q", q.c_str(), "--k", q.c_str(), "--v", q.c_str(), "--out",
          out.c_str(), nullptr);
    _exit(127);
  }
  wait_for_entries(folder, before + 1);
  kill(child, signal);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal) << status;
  EXPECT_EQ(folder.entries(), before);
}

TEST(Run, LeavesNothingWhenASignalEndsIt) {
  const TemporaryFolder folder;
  io::Array q(float32, {1, 4, 1, 8});
  {
    io::OutputFile file(folder / "q.npy");
    io::write_npy(file, folder / "q.npy", q);
    file.commit();
  }
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    end_a_run(folder, folder / "results", signal);
    end_a_run(folder, folder / "results.safetensors", signal);
  }
}

}  // namespace
}  // namespace fa::test
