// Arrays of gigabytes that are read and written at random: huge pages, and no pass that sets them to zero.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <span>
#include <utility>

#include "base/error.h"

namespace weft::data {

template <class T>
class BigArray {  // of plain numbers; what was not written is 0
 public:
  BigArray() = default;
  explicit BigArray(size_t count) : count_(count) {
    if (count == 0) return;
    void* p = ::mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw OutOfMemoryError("data: no memory for an index of " + std::to_string(count * sizeof(T)) + " bytes");
    ::madvise(p, count * sizeof(T), MADV_HUGEPAGE);  // a wish: without it only slower
    data_ = static_cast<T*>(p);
  }
  BigArray(BigArray&& o) noexcept : data_(std::exchange(o.data_, nullptr)), count_(std::exchange(o.count_, 0)) {}
  BigArray& operator=(BigArray&& o) noexcept {
    std::swap(data_, o.data_), std::swap(count_, o.count_);
    return *this;
  }
  ~BigArray() {
    if (data_ != nullptr) ::munmap(data_, count_ * sizeof(T));
  }
  std::span<T> span() { return {data_, count_}; }
  operator std::span<const T>() const { return {data_, count_}; }

 private:
  T* data_ = nullptr;
  size_t count_ = 0;
};

}  // namespace weft::data
