// The default number of threads: limits of control groups, and the CPUs of a thread.
#include "cpu/threads.hpp"

#include <gtest/gtest.h>
#include <omp.h>
#include <sched.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <thread>

#include "cli/files.hpp"
#include "cpu/cpu_quota.hpp"

namespace {

using Files = std::map<std::string, std::string>;

/// The quota in a file system of these files.
std::optional<int> quota(const Files& files) {
  const fa::test::TemporaryFolder root;
  for (const auto& [path, text] : files) {
    std::filesystem::create_directories(std::filesystem::path(root / path).parent_path());
    fa::test::write_bytes(root / path, text);
  }
  return fa::cpu::cpu_quota(root.path());
}

const char* const second_mount =
    "24 30 0:22 / /proc rw,nosuid - proc proc rw\n"
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

TEST(CpuQuota, OfTheSecondVersion) {
  const auto of = [](const std::string& cpu_max) {
    return quota({{"proc/self/cgroup", "0::/\n"},
                  {"proc/self/mountinfo", second_mount},
                  {"sys/fs/cgroup/cpu.max", cpu_max}});
  };
  EXPECT_EQ(of("200000 100000\n"), 2);
  EXPECT_EQ(of("150000 100000\n"), 2) << "rounded up";
  EXPECT_EQ(of("1000 100000\n"), 1);
  EXPECT_EQ(of("max 100000\n"), std::nullopt);
  EXPECT_EQ(of(""), std::nullopt);
  EXPECT_EQ(of("garbage\n"), std::nullopt);
  EXPECT_EQ(of("100000 0\n"), std::nullopt);
  EXPECT_GT(of("99999999999999999 1\n"), 1 << 20) << "no overflow";
}

TEST(CpuQuota, IsTheLeastOfTheGroupsAround) {
  const Files files{{"proc/self/cgroup", "0::/user.slice/job/step\n"},
                    {"proc/self/mountinfo", second_mount},
                    {"sys/fs/cgroup/user.slice/cpu.max", "300000 100000\n"},
                    {"sys/fs/cgroup/user.slice/job/cpu.max", "max 100000\n"},
                    {"sys/fs/cgroup/user.slice/job/step/cpu.max", "800000 100000\n"},
                    {"sys/fs/cgroup/user.slice/other/cpu.max", "100000 100000\n"}};
  EXPECT_EQ(quota(files), 3);
}

TEST(CpuQuota, OfTheFirstVersion) {
  Files files{
      {"proc/self/cgroup", "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n"},
      {"proc/self/mountinfo",
       "33 32 0:29 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
       "34 32 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"},
      {"sys/fs/cgroup/memory/cpu.cfs_quota_us", "1\n"},
      {"sys/fs/cgroup/memory/cpu.cfs_period_us", "1\n"},
      {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n"},
      {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "50000\n"}};
  EXPECT_EQ(quota(files), 5) << "the mounted group is the process's own";
  files["sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"] = "-1\n";
  EXPECT_EQ(quota(files), std::nullopt);
}

TEST(CpuQuota, OfPathsWithBlanksAndElsewhere) {
  const std::string mount = "30 23 0:26 / /mnt/control\\040groups rw - cgroup2 cgroup2 rw\n";
  EXPECT_EQ(quota({{"proc/self/cgroup", "0::/a b\n"},
                   {"proc/self/mountinfo", mount},
                   {"mnt/control groups/a b/cpu.max", "100000 100000\n"}}),
            1);
  EXPECT_EQ(quota({{"proc/self/cgroup", "0::/../outside\n"},
                   {"proc/self/mountinfo", second_mount},
                   {"sys/fs/cgroup/cpu.max", "400000 100000\n"},
                   {"sys/fs/outside/cpu.max", "100000 100000\n"}}),
            4)
      << "of a group outside of what is mounted only the mounted one is known";
}

TEST(CpuQuota, WithoutControlGroups) {
  EXPECT_EQ(quota({}), std::nullopt);
  EXPECT_EQ(quota({{"proc/self/cgroup", "::\n:\nnothing\n"}, {"proc/self/mountinfo", " - \n"}}),
            std::nullopt);
}

TEST(DefaultThreads, AreAsManyAsTheThreadHasCpus) {
  EXPECT_GE(fa::cpu::default_threads(), 1);
  EXPECT_LE(fa::cpu::default_threads(), omp_get_max_threads());
  std::thread([] {
    cpu_set_t all, one;
    ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    CPU_ZERO(&one);
    for (int cpu = 0; CPU_COUNT(&one) == 0; ++cpu) {
      if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
    }
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(fa::cpu::default_threads(), 1);
  }).join();
#pragma omp parallel num_threads(2)
  if (omp_in_parallel() != 0) {
    EXPECT_EQ(fa::cpu::default_threads(), 1);
  }
}

}  // namespace
