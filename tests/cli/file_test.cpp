// Files that cannot be read, and files that appear whole or not at all.
#include "support/io/file.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>
#include <vector>

#include "files.hpp"
#include "support/io/error.hpp"

namespace fa::test {
namespace {

TEST(InputFile, RefusesWhatIsNoRegularFile) {
  const TemporaryFolder folder;
  EXPECT_THROW(io::InputFile(folder / "missing"), io::FileError);
  EXPECT_THROW(io::InputFile(folder.path()), io::FileError);
  const std::string pipe = folder / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THROW(io::InputFile{pipe}, io::FileError);
}

TEST(InputFile, RefusesToReadBeyondItsEnd) {
  const TemporaryFolder folder;
  write_bytes(folder / "a", "12345");
  const io::InputFile file(folder / "a");
  std::vector<std::byte> three(3);
  file.read(2, three);
  EXPECT_EQ(std::to_integer<char>(three[2]), '5');
  EXPECT_THROW(file.read(3, three), io::FileError);
  EXPECT_EQ(file.head(100).size(), 5u);
}

TEST(OutputFile, AppearsOnCommitOnly) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  write_bytes(path, "old");
  {
    io::OutputFile file(path);
    file.write("new, given up");
    EXPECT_EQ(read_bytes(path), "old");
  }
  EXPECT_EQ(read_bytes(path), "old");
  EXPECT_EQ(folder.entries(), 1u);
  io::OutputFile file(path);
  file.write("new");
  file.commit();
  EXPECT_EQ(read_bytes(path), "new");
  EXPECT_EQ(folder.entries(), 1u);
}

/// What a process without stdout prints does not land in its files.
TEST(OutputFile, IsNoStandardDescriptor) {
  const TemporaryFolder folder;
  EXPECT_EXIT(
      {
        close(STDIN_FILENO);
        close(STDOUT_FILENO);
        io::OutputFile file(folder / "a");
        file.write("new");
        for (const int closed : {STDIN_FILENO, STDOUT_FILENO}) {
          if (write(closed, "printed", 7) >= 0) _exit(1);
        }
        file.commit();
        _exit(0);
      },
      testing::ExitedWithCode(0), "");
  EXPECT_EQ(read_bytes(folder / "a"), "new");
}

TEST(OutputFile, LeavesNothingWhenTheDiskIsFull) {
  const TemporaryFolder folder;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 1000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THROW(
      {
        io::OutputFile file(folder / "a");
        file.write(std::string(2000, 'x'));
        file.commit();
      },
      io::FileError);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(folder.entries(), 0u);
}

/// A process that is killed while its files are open.
void killed_while_writing(const TemporaryFolder& folder) {
  const pid_t child = fork();
  if (child == 0) {
    io::OutputFile file(folder / "a");
    file.write("half");
    const io::OutputFolder results(folder / "results");
    io::write_text(results.temporary() + "/b", "half");
    raise(SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
}

TEST(OutputFile, NeedsNoNameThatAKilledProcessTook) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  for (int serial = 0; serial < 100; ++serial) {  // in a container the number is the same each time
    write_bytes(fmt::format("{}.tmp-{}-{}", path, getpid(), serial), "left");
  }
  EXPECT_NO_THROW(io::write_text(path, "new"));
  EXPECT_EQ(read_bytes(path), "new");
}

TEST(OutputFile, RemovesWhatKilledProcessesLeft) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  for (int i = 0; i < 3; ++i) killed_while_writing(folder);
  EXPECT_EQ(folder.entries(), 2U) << "the last one's";
  write_bytes(folder / "a.0123456789abcdeX.tmp", "another's");
  io::OutputFile alive(path);
  alive.write("later");
  io::write_text(path, "whole");
  io::OutputFolder results(folder / "results");
  results.commit();
  EXPECT_EQ(read_bytes(path), "whole");
  alive.commit();
  EXPECT_EQ(read_bytes(path), "later");
  EXPECT_EQ(folder.entries(), 3U) << "a, results, and what only looks alike";
}

TEST(OutputFile, WritesThroughLinks) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "there");
  std::filesystem::create_symlink("there/a", folder / "link");
  std::filesystem::create_symlink("link", folder / "link_to_link");
  for (const char* text : {"made by a link to nothing yet", "replaced"}) {
    io::write_text(folder / "link_to_link", text);
    EXPECT_TRUE(std::filesystem::is_symlink(folder / "link_to_link"));
    EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
    EXPECT_EQ(read_bytes(folder / "there/a"), text);
  }
  std::filesystem::create_symlink("loop", folder / "loop");
  EXPECT_THROW(io::OutputFile(folder / "loop"), io::FileError);
}

TEST(OutputFile, KeepsTheModeAndRefusesReadOnlyFiles) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  const auto mode = [&](const std::string& file) {
    return static_cast<int>(std::filesystem::status(file).permissions());
  };
  write_bytes(path, "old");
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
  io::write_text(path, "new");
  EXPECT_EQ(mode(path), 0600);
  ASSERT_EQ(chmod(path.c_str(), 0444), 0);
  ASSERT_EQ(chmod(folder.path().c_str(), 0777), 0);
  const bool root = geteuid() == 0;  // who may write it all the same, as cp does
  if (root) {
    io::write_text(path, "root's");
    EXPECT_EQ(mode(path), 0444);
    ASSERT_EQ(seteuid(65534), 0);
  }
  std::string error;
  try {
    io::try_writing(path);
  } catch (const io::FileError& found) {
    error = found.what();
  }
  ASSERT_EQ(seteuid(root ? 0 : geteuid()), 0);
  EXPECT_EQ(error, path + ": cannot be written: Permission denied");
  EXPECT_EQ(folder.entries(), 1U);
}

TEST(OutputFile, IsClosedToOthersWhereTheOldOneIs) {
  const TemporaryFolder folder;
  write_bytes(folder / "a", "secret");
  ASSERT_EQ(chmod((folder / "a").c_str(), 0600), 0);
  io::OutputFile file(folder / "a");
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    EXPECT_EQ(static_cast<int>(entry.status().permissions()), 0600) << entry.path();
  }
  EXPECT_EQ(folder.entries(), 2U);
}

TEST(OutputFile, IsNamedInErrorsAsIsSaid) {
  const TemporaryFolder folder;
  try {
    const io::OutputFile file(folder / "missing/a", "results/a");
    ADD_FAILURE() << "has no folder";
  } catch (const io::FileError& error) {
    EXPECT_STREQ(error.what(), "results/a: cannot be written: No such file or directory");
  }
}

/// Each takes what the others have just made for what a killed process left.
TEST(OutputFolder, IsMadeByManyAtOnce) {
  const TemporaryFolder folder;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int turn = 0; turn < 500; ++turn) {
        EXPECT_NO_THROW(const system::NewFolder made(folder / "results"));
      }
    });
  }
  threads.clear();
  EXPECT_EQ(folder.entries(), 0U);
}

TEST(OutputFolder, AppearsWithAllItsFiles) {
  const TemporaryFolder folder;
  {
    io::OutputFolder given_up(folder / "results");
    io::write_text(given_up.temporary() + "/a", "x");
  }
  EXPECT_EQ(folder.entries(), 0U);
  io::OutputFolder results((folder / "results") + "/");
  io::write_text(results.temporary() + "/a", "x");
  EXPECT_FALSE(std::filesystem::exists(folder / "results"));
  results.commit();
  EXPECT_EQ(read_bytes(folder / "results/a"), "x");
  EXPECT_EQ(folder.entries(), 1U);
  io::OutputFolder late(folder / "results");
  EXPECT_THROW(late.commit(), io::FileError) << "there is one with a file in it";
  EXPECT_THROW(io::OutputFolder(folder / "missing/results"), io::FileError);
}

TEST(OutputFile, NeedsItsFolder) {
  const TemporaryFolder folder;
  EXPECT_THROW(io::OutputFile(folder / "missing/a"), io::FileError);
}

TEST(OutputFile, CanBeTriedWithoutATrace) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  EXPECT_NO_THROW(io::try_writing(path));
  EXPECT_EQ(folder.entries(), 0U);
  write_bytes(path, "old");
  EXPECT_NO_THROW(io::try_writing(path));
  EXPECT_EQ(read_bytes(path), "old");
  EXPECT_THROW(io::try_writing(folder.path()), io::FileError);
  EXPECT_THROW(io::try_writing("/dev/null"), io::FileError);
  EXPECT_THROW(io::try_writing(folder / "missing/a"), io::FileError);
}

}  // namespace
}  // namespace fa::test
