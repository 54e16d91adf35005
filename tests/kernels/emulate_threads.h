// The threads of the host emulation: one block of a launch at a time, each of its threads a fiber that yields where it has to wait for others.
// Barriers, what a block and a thread have under way, and the launch itself. Instructions are in emulate.h.
#pragma once
#include <setjmp.h>
#include <ucontext.h>
#include <vector_types.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

namespace emulate {

struct Warp {
  uint64_t slot[32][8];
  int arrived = 0;
  unsigned generation = 0;
};
struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
};
struct Copy {
  void* to;
  const void* from;
  bool valid;
  int group, bytes;
};
struct BulkCopy {  // into shared memory
  std::function<void()> land;
  uint64_t* barrier;
  int bytes;
};
struct BulkStore {  // out of it
  std::function<void()> leave;
  int group;
};
// A fiber begins by ucontext, and then changes hands by _setjmp and _longjmp: swapcontext asks the system twice for the signal mask, which
// took nine tenths of the time. (longjmp's own check of the stack is off: CMakeLists.txt.)
struct Thread {
  ucontext_t begin;
  jmp_buf here;
  bool begun = false;
  std::unique_ptr<char[]> stack;
  uint3 index;
  int number = 0;
  bool done = false;
  std::vector<Copy> copies;
  int group = 0;
  std::vector<BulkStore> stores;
  int store_group = 0;
  size_t waits = 0;  // for wgmma
};
struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barriers[25];  // 16 and one to spare, then one a warpgroup
  std::vector<int> wait_lines[8];  // of a warpgroup: where it has waited for wgmma
  uint8_t* smem = nullptr;
  uint3 index;
  dim3 grid, size;
  Thread* now = nullptr;
  jmp_buf scheduler;
  uint64_t progress = 0;
  std::vector<BulkCopy> bulks;           // under way
  std::map<uint64_t*, int64_t> to_come;  // bytes that a barrier still waits for
  std::function<void()> body;
};
inline Block*& block() {
  static Block* b = nullptr;
  return b;
}
inline uint8_t* dynamic_smem() { return block()->smem; }
__attribute__((noinline)) inline void yield() {
  Block& b = *block();
  if (_setjmp(b.now->here) == 0) _longjmp(b.scheduler, 1);
}
__attribute__((noinline)) inline void resume(Block& b) {  // b.now, until it yields
  if (_setjmp(b.scheduler) != 0) return;
  if (b.now->begun) _longjmp(b.now->here, 1);
  b.now->begun = true;
  setcontext(&b.now->begin);
}
template <class Meeting>
void meet(Meeting& m, int expected) {
  const unsigned g = m.generation;
  if (++m.arrived == expected) {
    m.arrived = 0, ++m.generation, ++block()->progress;
  } else {
    while (m.generation == g) yield();
  }
}
inline int lane() { return block()->now->number & 31; }
inline Warp& warp() { return block()->warps[block()->now->number >> 5]; }
inline void warp_barrier() { meet(warp(), std::min<int>(32, block()->threads.size())); }
inline void block_barrier(int id = 0, int threads = -1) {
  meet(block()->barriers[id], threads < 0 ? static_cast<int>(block()->threads.size()) : threads);
}
void land_some(Block& b, std::mt19937& random);  // emulate.h: copies of the copy engine arrive
inline void entry() {  // a thread of one block of the grid after another
  Block& b = *block();
  while (true) {
    b.body();
    if (!b.now->stores.empty()) std::fprintf(stderr, "emulate: a thread ends before what it sent out of shared memory has been read\n"), std::abort();
    b.now->done = true, ++b.progress;
    yield();
  }
}

inline void run(dim3 grid, dim3 size, size_t smem_bytes, std::function<void()> body) {
  static std::mt19937 random(1);
  const int n = size.x * size.y * size.z;
  std::vector<uint8_t> smem(smem_bytes + 2048);
  uint8_t* aligned = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(smem.data()) + 1023) / 1024 * 1024);
  Block b;
  b.grid = grid, b.size = size, b.smem = aligned, b.body = std::move(body);
  b.threads.resize(n);
  for (auto& t : b.threads) {
    t.stack.reset(new char[128 * 1024]);
    getcontext(&t.begin);
    t.begin.uc_stack.ss_sp = t.stack.get();
    t.begin.uc_stack.ss_size = 128 * 1024;
    t.begin.uc_link = nullptr;
    makecontext(&t.begin, entry, 0);
  }
  block() = &b;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        std::memset(aligned, 0xff, smem_bytes);
        b.index = {x, y, z};
        b.warps.assign((n + 31) / 32, Warp{});
        for (auto& bar : b.barriers) bar = {};
        b.bulks.clear(), b.to_come.clear();
        for (auto& lines : b.wait_lines) lines.clear();
        for (int i = 0; i < n; ++i) {
          Thread& t = b.threads[i];
          t.number = i, t.done = false, t.copies.clear(), t.group = 0, t.stores.clear(), t.store_group = 0, t.waits = 0;
          t.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
        }
        std::vector<int> order((n + 31) / 32);
        for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
        uint64_t idle = 0, last = 0;
        while (true) {
          std::shuffle(order.begin(), order.end(), random);
          land_some(b, random);
          const bool backwards = random() & 1;
          bool alive = false;
          for (int w : order)
            for (int l = 0; l < 32; ++l) {
              const int i = w * 32 + (backwards ? 31 - l : l);
              if (i >= n || b.threads[i].done) continue;
              alive = true;
              b.now = &b.threads[i];
              resume(b);
            }
          if (!alive) {
            if (!b.bulks.empty()) std::fprintf(stderr, "emulate: block (%u, %u, %u) ends before its bulk copies\n", x, y, z), std::abort();
            break;
          }
          idle = b.progress == last ? idle + 1 : 0, last = b.progress;
          if (idle > 1000) std::fprintf(stderr, "emulate: the threads of block (%u, %u, %u) wait for each other\n", x, y, z), std::abort();
        }
      }
  block() = nullptr;
}

}  // namespace emulate
