#include "ops/aten.h"

#include "ops/cpu_memory.h"

#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>

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
constexpr size_t kAlwaysKept = 64 << 20;

class Blocks {
 public:
  void* take(size_t bytes) {
    const size_t want = block_size(bytes);
    {
      const std::lock_guard lock(mutex_);
      used_ += want;
      most_ = std::max(most_, used_);
      // A block of the right size, or one a little larger: the sizes of one step are those of the next.
      if (const auto it = free_.lower_bound(want); it != free_.end() && it->first <= want + want / 4) {
        char* block = it->second;
        used_ += it->first - want, kept_ -= it->first;
        free_.erase(it);
        return block + kHeader;
      }
    }
    return make(want);
  }
  void give_back(char* block, size_t size) {
    const std::lock_guard lock(mutex_);
    used_ -= size, kept_ += size;
    free_.emplace(size, block);
    while (kept_ > std::max(kAlwaysKept, most_ / 2)) {
      const auto largest = std::prev(free_.end());
      kept_ -= largest->first;
      drop(largest->second, largest->first);
      free_.erase(largest);
    }
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
  mutable std::mutex mutex_;
  std::multimap<size_t, char*> free_;
  size_t used_ = 0, kept_ = 0, most_ = 0;
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
