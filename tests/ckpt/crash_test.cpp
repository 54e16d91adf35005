// A save is ended, or a storage call fails, at every call in turn; afterwards a load must give the old or the new checkpoint.
// The storage calls of this program are replaced here; they fail only in a forked child that asked for it.
#include "ops/aten.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdio>

#include "base/error.h"
#include "ckpt/store.h"
#include "comm/comm.h"
#include "folder.h"

namespace {

enum Fault { kNone, kKillBefore, kKillHalfway, kNoSpace, kIoFault, kInterrupted };
int g_fault = kNone, g_at = -1, g_calls = 0;  // of the child

// True when this call is the one to fail with errno; a kill does not return.
bool fails(bool is_write) {
  if (g_fault == kNone || ++g_calls != g_at) return false;
  if (g_fault == kKillBefore || (g_fault == kKillHalfway && !is_write)) ::raise(SIGKILL);
  if (g_fault == kInterrupted) return errno = EINTR, is_write;  // only write is documented to be tried again
  if (g_fault == kNoSpace || g_fault == kIoFault) return errno = g_fault == kNoSpace ? ENOSPC : EIO, true;
  return false;
}

template <class F>
F* real(const char* name) { return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name)); }

}  // namespace

extern "C" {
ssize_t write(int fd, const void* data, size_t n) {
  if (fd > 2 && fails(true)) return -1;
  if (fd > 2 && g_fault == kKillHalfway && g_calls == g_at) {
    ::syscall(SYS_write, fd, data, n / 2);
    ::raise(SIGKILL);
  }
  return ::syscall(SYS_write, fd, data, n);
}
int fsync(int fd) { return fails(false) ? -1 : static_cast<int>(::syscall(SYS_fsync, fd)); }
int rename(const char* a, const char* b) noexcept { return fails(false) ? -1 : real<int(const char*, const char*)>("rename")(a, b); }
int mkdir(const char* path, mode_t mode) noexcept { return fails(false) ? -1 : real<int(const char*, mode_t)>("mkdir")(path, mode); }
int unlinkat(int fd, const char* path, int flags) noexcept { return fails(false) ? -1 : real<int(int, const char*, int)>("unlinkat")(fd, path, flags); }
}

namespace weft::ckpt {
namespace {

at::Tensor content(int64_t step) { return at::arange(300000, at::kFloat) + step; }  // larger than the writer's buffer

Source source(const std::string& name, int64_t step) {
  const at::Tensor t = content(step);
  return {{name, DType::kF32, {300000}, {{0}, {300000}}}, t};
}

void save(const Store& store, int64_t step) {
  Manifest m;
  m.step = step;
  auto self = self_comm();
  store.save(*self, m, std::vector<Source>{source("w", step), source("optim.m.w", step)}, 2);
}

struct Outcome { bool killed, refused, done; };

Outcome save_with_fault(const Store& store, int64_t step, Fault fault, int at) {
  const pid_t child = ::fork();
  if (child == 0) {
    g_fault = fault, g_at = at, g_calls = 0;
    int code = 0;
    try {
      save(store, step);
    } catch (const IoError&) {
      code = 74;
    } catch (...) {
      code = 1;
    }
    ::_exit(g_calls < at && code == 0 ? 100 : code);  // 100: the save has fewer calls
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 74 || WEXITSTATUS(status) == 100) << WEXITSTATUS(status);
  return {WIFSIGNALED(status), !WIFSIGNALED(status) && WEXITSTATUS(status) == 74, !WIFSIGNALED(status) && WEXITSTATUS(status) == 100};
}

// At every call of a save that also deletes an old checkpoint.
int sweep_faults(Fault fault) {
  at::set_num_threads(1);
  int points = 0;
  for (int at = 1; at < 200; ++at) {
    const TempFolder dir;
    const Store store(dir.path + "/checkpoints");
    save(store, 1), save(store, 2);
    const Outcome o = save_with_fault(store, 3, fault, at);
    if (o.done) return points;
    ++points;
    if (fault == kKillBefore || fault == kKillHalfway) { EXPECT_TRUE(o.killed) << at; }
    std::vector<Refused> refused;
    const auto f = store.newest_valid(&refused);
    EXPECT_TRUE(f && (f->manifest.step == 2 || f->manifest.step == 3)) << at;
    EXPECT_TRUE(refused.empty()) << "call " << at << ": " << refused[0].why;
    if (!f) return points;
    at::Tensor w = at::empty({300000});
    load(*f, std::vector<Target>{{source("w", 0).piece, w}});
    EXPECT_TRUE(at::equal(w, content(f->manifest.step)));
    store.sweep();
    save(store, 3);  // and the run goes on
    EXPECT_EQ(store.newest_valid()->manifest.step, 3) << at;
    EXPECT_EQ(store.committed().size(), 2u) << at;
  }
  ADD_FAILURE() << "the save never ended";
  return points;
}

}  // namespace

TEST(Crash, AKillAtEveryStorageCallLeavesAWholeCheckpoint) { EXPECT_GT(sweep_faults(kKillBefore), 15); }
TEST(Crash, AKillHalfwayThroughEveryWriteLeavesAWholeCheckpoint) { EXPECT_GT(sweep_faults(kKillHalfway), 15); }
TEST(Crash, AFullDiskAtEveryStorageCallLeavesAWholeCheckpoint) { EXPECT_GT(sweep_faults(kNoSpace), 15); }
TEST(Crash, AnIoErrorAtEveryStorageCallLeavesAWholeCheckpoint) { EXPECT_GT(sweep_faults(kIoFault), 15); }
TEST(Crash, AnInterruptedWriteIsTriedAgain) { EXPECT_GT(sweep_faults(kInterrupted), 15); }

}  // namespace weft::ckpt
