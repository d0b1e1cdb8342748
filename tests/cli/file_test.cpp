// Files that cannot be read, and files that appear whole or not at all.
#include "io/file.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>

#include "files.hpp"
#include "io/error.hpp"

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
