// The disk cache under faults: what is damaged, foreign or full costs a compilation, never an
// error.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "cuda/runtime/disk_cache.hpp"
#include "cuda_folder.hpp"

namespace {

using namespace fa::cuda;
using namespace fa::test;

using Code = std::vector<char>;

constexpr Digest key{1, 2}, other_key{1, 3};

Code some_code(size_t bytes = 5000) {
  Code code(bytes);
  for (size_t i = 0; i < bytes; ++i) code[i] = static_cast<char>(i * 7 + i / 256);
  return code;
}

TEST(Digest, IsFnv1a) {
  EXPECT_EQ(digest("").hex(), "6c62272e07bb014262b821756295c58d");
  EXPECT_EQ(digest("a").hex(), "d228cb696f1a8caf78912b704e4a8964");
  EXPECT_EQ(digest("b", digest("a")), digest("ab"));
  EXPECT_NE(digest_of("ab", "c"), digest_of("a", "bc"));
  EXPECT_NE(digest_of("a"), digest_of("a", ""));
}

TEST(DiskCache, GivesBackWhatWasStored) {
  const Folder folder;
  const DiskCache cache(folder / "a/b/cache/");
  EXPECT_EQ(cache.problem(), "");
  EXPECT_EQ(cache.load(key), std::nullopt);
  EXPECT_EQ(cache.usage().entries, 0);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path())) << "made when something is to be stored";
  cache.store(key, some_code());
  struct stat status{};
  ASSERT_EQ(stat((folder / "a/b/cache").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0700U);
  cache.store(other_key, Code());
  EXPECT_EQ(cache.load(key), some_code());
  EXPECT_EQ(cache.load(other_key), Code());
  EXPECT_EQ(DiskCache(folder / "a/b/cache").load(key), some_code());
  EXPECT_EQ(cache.usage().entries, 2);
  EXPECT_GT(cache.usage().bytes, 5000);

  cache.store(key, some_code(10));
  EXPECT_EQ(cache.load(key), some_code(10));
}

TEST(DiskCache, RefusesAndRemovesEveryDamagedEntry) {
  const Folder folder;
  const DiskCache cache(folder.path());
  cache.store(key, some_code(100));
  const std::string path = folder.files(".cubin").at(0);
  const std::string whole = read_file(path);
  const auto refused = [&](const std::string& bytes) {
    write_file(path, bytes);
    return cache.load(key) == std::nullopt && !std::filesystem::exists(path);
  };
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << i % 8));
    EXPECT_TRUE(refused(flipped)) << "byte " << i;
    EXPECT_TRUE(refused(whole.substr(0, i))) << "length " << i;
  }
  EXPECT_TRUE(refused(whole + "x"));

  cache.store(other_key, some_code(100));  // another kernel's entry under this name
  std::filesystem::rename(folder.files(".cubin").at(0), path);
  EXPECT_EQ(cache.load(key), std::nullopt);

  std::filesystem::create_symlink("/etc/passwd", path);
  EXPECT_EQ(cache.load(key), std::nullopt);
  EXPECT_FALSE(std::filesystem::is_symlink(path));
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(cache.load(key), std::nullopt);
  std::filesystem::create_directory(path);
  EXPECT_EQ(cache.load(key), std::nullopt);
  cache.store(key, some_code());  // cannot replace a folder
  EXPECT_TRUE(folder.files(".tmp").empty());
}

TEST(DiskCache, UsesOnlyAFolderOfItsUserAlone) {
  const Folder folder;
  const auto problem = [&](const std::string& path) { return DiskCache(path).problem(); };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != text.npos;
  };
  for (const auto mode : {0770, 0707, 0720, 0755, 0701}) {
    const std::string path = folder / "open";
    std::filesystem::create_directory(path);
    chmod(path.c_str(), mode);
    EXPECT_TRUE(has(problem(path), "must be 0700")) << problem(path);
    const DiskCache unused(path);
    unused.store(key, some_code());
    EXPECT_EQ(unused.load(key), std::nullopt);
    EXPECT_FALSE(unused.lock(key).is_open());
    EXPECT_TRUE(std::filesystem::is_empty(path));
    std::filesystem::remove(path);
  }
  std::filesystem::create_directory(folder / "real");
  chmod((folder / "real").c_str(), 0700);
  std::filesystem::create_symlink(folder / "real", folder / "link");
  EXPECT_EQ(problem(folder / "real"), "");
  EXPECT_TRUE(has(problem(folder / "link"), "link")) << problem(folder / "link");
  EXPECT_TRUE(has(problem(folder / "link/"), "link"));
  write_file(folder / "file", "");
  EXPECT_NE(problem(folder / "file"), "");
  const DiskCache nowhere("/proc/no/such");
  EXPECT_EQ(nowhere.problem(), "");
  nowhere.store(key, some_code());
  EXPECT_NE(nowhere.problem(), "");
  if (geteuid() == 0) {
    ASSERT_EQ(chown((folder / "real").c_str(), 65534, 65534), 0);
    EXPECT_TRUE(has(problem(folder / "real"), "belongs to user 65534"));
  }
}

TEST(DiskCache, IsWhereTheEnvironmentSays) {
  const Folder folder;
  const auto chosen = [] { return DiskCache::of_environment(); };
  for (const char* name : {"FA_CACHE", "FA_CACHE_DIR", "XDG_CACHE_HOME", "HOME"}) unsetenv(name);
  EXPECT_NE(chosen().problem(), "");
  setenv("HOME", (folder / "home").c_str(), 1);
  EXPECT_EQ(chosen().folder(), folder / "home/.cache/fa-kernels");
  setenv("XDG_CACHE_HOME", "not/absolute", 1);
  EXPECT_EQ(chosen().folder(), folder / "home/.cache/fa-kernels");
  setenv("XDG_CACHE_HOME", (folder / "xdg").c_str(), 1);
  EXPECT_EQ(chosen().folder(), folder / "xdg/fa-kernels");
  setenv("FA_CACHE_DIR", (folder / "named").c_str(), 1);
  EXPECT_EQ(chosen().folder(), folder / "named");
  EXPECT_EQ(chosen().problem(), "");
  setenv("FA_CACHE_DIR", "named", 1);
  EXPECT_EQ(chosen().folder(), "");
  EXPECT_EQ(chosen().problem(),
            "FA_CACHE_DIR: \"named\" is a relative path, which is not used; it must begin with /");
  setenv("FA_CACHE", "0", 1);
  EXPECT_EQ(chosen().folder(), "");
  EXPECT_EQ(chosen().problem(), "FA_CACHE is 0");
}

// As root with the HOME of the user who called sudo.
TEST(DiskCache, MakesNothingInAnotherUsersHome) {
  if (geteuid() != 0) GTEST_SKIP() << "cannot give a folder away";
  const Folder folder;
  const std::string home = folder / "home";
  std::filesystem::create_directory(home);
  ASSERT_EQ(chown(home.c_str(), 65534, 65534), 0);
  for (const char* name : {"FA_CACHE", "FA_CACHE_DIR", "XDG_CACHE_HOME", "HOME"}) unsetenv(name);
  for (const char* name : {"HOME", "XDG_CACHE_HOME"}) {
    setenv(name, home.c_str(), 1);
    const DiskCache cache = DiskCache::of_environment();
    EXPECT_EQ(cache.problem(), "it is not there, and " + home + " belongs to user 65534, not to 0");
    cache.store(key, some_code());
    EXPECT_FALSE(cache.lock(key).is_open());
    EXPECT_TRUE(std::filesystem::is_empty(home));
    unsetenv(name);
  }
  setenv("FA_CACHE_DIR", (home + "/kernels").c_str(), 1);  // who names it means it
  const DiskCache named = DiskCache::of_environment();
  named.store(key, some_code());
  EXPECT_EQ(named.load(key), some_code());
  unsetenv("FA_CACHE_DIR");
}

TEST(DiskCache, LocksOneKernelAndGivesUpInTime) {
  const Folder folder;
  const DiskCache cache(folder.path());
  fa::system::File held = cache.lock(key);
  ASSERT_TRUE(held.is_open());
  EXPECT_TRUE(cache.lock(other_key).is_open());
  EXPECT_FALSE(cache.lock(key, 0.03).is_open());
  std::thread release([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    held.close();
  });
  EXPECT_TRUE(cache.lock(key).is_open());
  release.join();
  for (uint64_t i = 0; i < 2000; ++i) cache.lock({0, i});
  EXPECT_LE(folder.files().size(), 256U);
}

TEST(DiskCache, RemovesWhatKilledProcessesLeft) {
  const Folder folder;
  const DiskCache cache(folder.path());
  write_file(folder / "old.tmp", "x");
  write_file(folder / "new.tmp", "x");
  using Clock = std::filesystem::file_time_type::clock;
  std::filesystem::last_write_time(folder / "old.tmp", Clock::now() - std::chrono::hours(2));
  cache.store(key, some_code());
  EXPECT_FALSE(std::filesystem::exists(folder / "old.tmp"));
  EXPECT_TRUE(std::filesystem::exists(folder / "new.tmp"));
}

// A writer that is killed at any moment leaves whole entries only.
TEST(DiskCache, SurvivesKills) {
  const Folder folder;
  const Code code = some_code(300000);
  for (int round = 0; round < 60; ++round) {
    int at_work[2];
    ASSERT_EQ(pipe(at_work), 0);
    const pid_t child = fork();
    if (child == 0) {
      const DiskCache cache(folder.path());
      for (uint64_t i = 0;; ++i) {
        const fa::system::File lock = cache.lock({7, i % 3});
        cache.store({7, i % 3}, code);
        if (round % 2 == 0 && i == 3 && write(at_work[1], "x", 1) != 1) _exit(1);
      }
    }
    // However busy the machine is: every second one is at work, and all three entries are there.
    char told = 0;
    if (round % 2 == 0) {
      ASSERT_EQ(read(at_work[0], &told, 1), 1);
    }
    close(at_work[0]);
    close(at_work[1]);
    usleep(1000 + round * 300);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    for (uint64_t i = 0; i < 3; ++i) {
      const std::string path = folder / (Digest{7, i}.hex() + ".cubin");
      const bool there = std::filesystem::exists(path);
      const DiskCache cache(folder.path());
      ASSERT_EQ(cache.load({7, i}).has_value(), there) << "round " << round;
      ASSERT_TRUE(cache.lock({7, i}, 1).is_open());
    }
  }
  EXPECT_EQ(folder.files(".cubin").size(), 3U);
}

class TinyDisk {
 public:
  TinyDisk()
      : mounted_(mount("none", folder_.path().c_str(), "tmpfs", 0, "size=64k,mode=0700") == 0) {}
  ~TinyDisk() {
    if (mounted_) umount(folder_.path().c_str());
  }
  bool mounted() const { return mounted_; }
  const Folder& folder() const { return folder_; }

 private:
  Folder folder_;
  bool mounted_;
};

TEST(DiskCache, LeavesNothingOnAFullDisk) {
  const TinyDisk disk;
  if (!disk.mounted()) GTEST_SKIP() << "may not mount a file system here";
  const DiskCache cache(disk.folder().path());
  cache.store(key, some_code(20000));
  cache.store(other_key, some_code(100000));
  EXPECT_EQ(cache.load(other_key), std::nullopt);
  EXPECT_EQ(cache.load(key), some_code(20000));
  EXPECT_EQ(disk.folder().files().size(), 1U);

  ASSERT_EQ(mount("none", disk.folder().path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr),
            0);
  const DiskCache read_only(disk.folder().path());
  read_only.store(other_key, some_code(10));
  EXPECT_FALSE(read_only.lock(other_key).is_open());
  EXPECT_EQ(read_only.load(key), some_code(20000));
}

}  // namespace
