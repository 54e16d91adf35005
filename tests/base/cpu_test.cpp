#include "base/cpu.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/signals.h"

namespace weft {
namespace fs = std::filesystem;

namespace {
void put(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}
}  // namespace

TEST(Cpu, QuotaIsTheLeastOverTheGroupsAbove) {
  const fs::path root = fs::temp_directory_path() / ("weft_cgroup_" + std::to_string(::getpid()));
  put(root / "proc/self/cgroup", "0::/a/b\n");
  put(root / "proc/meminfo", "MemTotal: 8000 kB\nMemAvailable: 4000 kB\n");
  EXPECT_EQ(cpu::quota(root), 0);
  put(root / "sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(cpu::quota(root), 0);
  put(root / "sys/fs/cgroup/a/cpu.max", "150000 100000\n");
  EXPECT_EQ(cpu::quota(root), 1.5);
  put(root / "sys/fs/cgroup/cpu.max", "400000 100000\n");
  EXPECT_EQ(cpu::quota(root), 1.5);
  EXPECT_EQ(cpu::memory_total(root), 8000u * 1024);
  put(root / "sys/fs/cgroup/a/memory.max", "1000000\n");
  put(root / "sys/fs/cgroup/a/memory.current", "600000\n");
  put(root / "sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 100000\n");
  EXPECT_EQ(cpu::memory_total(root), 1000000u);
  EXPECT_EQ(cpu::memory_available(root), 500000u);
  put(root / "proc/self/cgroup", "4:cpu,cpuacct:/c\n");  // v1
  put(root / "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "50000\n");
  put(root / "sys/fs/cgroup/cpu/c/cpu.cfs_period_us", "100000\n");
  fs::remove(root / "sys/fs/cgroup/cpu.max");
  EXPECT_EQ(cpu::quota(root), 0.5);
  fs::remove_all(root);
}

TEST(Cpu, ThisMachineHasSome) {
  EXPECT_GE(cpu::threads(), 1);
  EXPECT_LE(cpu::threads(), cpu::cores());
  EXPECT_GT(cpu::memory_total(), cpu::memory_used());
  EXPECT_GE(cpu::memory_peak(), cpu::memory_used());
  EXPECT_FALSE(cpu::isa().empty());
}

TEST(Signals, TheFirstIsAWishTheSecondEnds) {
  {
    const signals::Guard guard;
    EXPECT_EQ(signals::requested(), 0);
    EXPECT_FALSE(signals::stop_flag());
    ::raise(SIGPIPE);
    ::raise(SIGTERM);
    EXPECT_EQ(signals::requested(), SIGTERM);
    EXPECT_TRUE(signals::stop_flag());
    EXPECT_STREQ(signals::name(SIGTERM), "SIGTERM");
  }
  const pid_t child = ::fork();
  if (child == 0) {
    const signals::Guard guard;
    ::raise(SIGINT);
    ::raise(SIGINT);
    ::_exit(1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 130);
}

}  // namespace weft
