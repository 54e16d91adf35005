#include "ops/aten.h"

#include "ops/cpu_memory.h"

#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace weft::ops {
namespace {

constexpr size_t kHeader = 64;           // before a tensor's bytes, which stay aligned for SIMD: the size of its block
constexpr size_t kSmall = 32 << 10;      // left to the C library
// From here each block is a mapping of its own: a heap that holds both long and short lives grows.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kMapped = SIZE_MAX;  // the sanitizer watches the ends of what comes from the heap
#else
constexpr size_t kMapped = 256 << 10;
#endif
constexpr size_t kRoom = 64 << 20;   // blocks in use and waiting: a quarter more than the most in use, or so much more
constexpr int kWindow = 1 << 16;     // blocks taken, several steps: the most in use is that of this window and the one before

class Blocks {
 public:
  void* take(size_t bytes) {
    const size_t want = block_size(bytes);
    std::vector<Block> dropped;
    {
      const std::lock_guard lock(mutex_);
      note_use(want);
      // A block of the right size, or one a little larger: the sizes of one step are those of the next.
      if (auto it = by_size_.lower_bound(want); it != by_size_.end() && it->first <= want + want / 4) {
        it = std::prev(by_size_.upper_bound(it->first));  // the one freed last, which caches may still hold
        const auto waiting = waiting_.find(it->second);
        const Block block = waiting->second;
        used_ += block.size - want, kept_ -= block.size;
        by_size_.erase(it), waiting_.erase(waiting);
        return block.at + kHeader;
      }
      dropped = over_limit();
    }
    drop(dropped);
    return make(want);
  }
  void give_back(char* block, size_t size) {
    std::vector<Block> dropped;
    {
      const std::lock_guard lock(mutex_);
      used_ -= size, kept_ += size;
      by_size_.emplace(size, ++age_);
      waiting_.emplace(age_, Block{block, size});
      dropped = over_limit();
    }
    drop(dropped);
  }
  CpuMemory state() const {
    const std::lock_guard lock(mutex_);
    return {static_cast<int64_t>(used_), static_cast<int64_t>(kept_)};
  }
  static void* make(size_t size) {
    void* block = nullptr;
    if (size >= kMapped) {
      block = ::mmap(nullptr, kHeader + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (block == MAP_FAILED) block = nullptr;
    } else if (::posix_memalign(&block, kHeader, kHeader + size) != 0) {
      block = nullptr;
    }
    if (block == nullptr) {
      c10::profiledCPUMemoryReporter().OutOfMemory(size);
      throw OutOfMemoryError("memory: a tensor of " + human_bytes(size) + " cannot be had");
    }
    *static_cast<size_t*>(block) = size;
    return static_cast<char*>(block) + kHeader;
  }
  static void drop(void* block, size_t size) { size >= kMapped ? static_cast<void>(::munmap(block, kHeader + size)) : std::free(block); }

 private:
  struct Block {
    char* at;
    size_t size;
  };

  void note_use(size_t want) {
    used_ += want;
    if (++taken_ == kWindow) taken_ = 0, most_before_ = most_, most_ = used_;
    most_ = std::max(most_, used_);
  }
  // Blocks that have waited longest, where all blocks together would be too many. Given back outside the lock: that takes milliseconds.
  std::vector<Block> over_limit() {
    std::vector<Block> all;
    const size_t most = std::max(most_, most_before_), limit = most + std::max(most / 4, kRoom);
    while (kept_ > 0 && used_ + kept_ > limit) {
      const auto oldest = waiting_.begin();
      const auto [first, last] = by_size_.equal_range(oldest->second.size);
      by_size_.erase(std::find_if(first, last, [&](const auto& x) { return x.second == oldest->first; }));
      kept_ -= oldest->second.size;
      all.push_back(oldest->second);
      waiting_.erase(oldest);
    }
    return all;
  }
  static void drop(const std::vector<Block>& blocks) {
    for (const Block& b : blocks) drop(b.at, b.size);
  }

  mutable std::mutex mutex_;
  std::multimap<size_t, uint64_t> by_size_;  // size -> age
  std::map<uint64_t, Block> waiting_;        // age -> block
  size_t used_ = 0, kept_ = 0, most_ = 0, most_before_ = 0;
  uint64_t age_ = 0;
  int taken_ = 0;
};

Blocks& blocks() {  // the tensor library has one CPU allocator a process, and tensors may outlive every static object
  static Blocks* const all = new Blocks;
  return *all;
}

void release(void* data) {
  if (data == nullptr) return;
  c10::profiledCPUMemoryReporter().Delete(data);
  char* block = static_cast<char*>(data) - kHeader;
  const size_t size = *reinterpret_cast<size_t*>(block);
  size <= kSmall ? Blocks::drop(block, size) : blocks().give_back(block, size);
}

struct Keeper final : at::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    void* data = nullptr;
    if (bytes > 0) {
      data = bytes <= kSmall ? Blocks::make(bytes) : blocks().take(bytes);
      c10::profiledCPUMemoryReporter().New(data, bytes);
    }
    return {data, data, &release, at::Device(at::kCPU)};
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

}  // namespace

size_t block_size(size_t bytes) {
  if (bytes <= kSmall) return bytes;
  const size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

void keep_cpu_tensors() {
  static Keeper* const keeper = [] {
    auto* k = new Keeper;
    c10::SetCPUAllocator(k, /*priority=*/1);
    return k;
  }();
  static_cast<void>(keeper);
}

CpuMemory cpu_memory() { return blocks().state(); }

}  // namespace weft::ops
