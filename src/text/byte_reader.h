// Reads little-endian numbers and byte strings from a file's content; a read past the end is an InputError with the offset.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "base/error.h"

namespace weft::text {

class ByteReader {
 public:
  ByteReader(std::string_view content, const std::string& where, size_t base = 0) : content_(content), where_(where), base_(base) {}
  bool more() const { return at_ < content_.size(); }
  size_t left() const { return content_.size() - at_; }
  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(where_ + ": offset " + std::to_string(base_ + at_) + ": " + what);
  }
  std::string_view bytes(uint64_t n) {
    if (n > left()) fail("ends too early: got " + std::to_string(left()) + " bytes, want " + std::to_string(n));
    const std::string_view out = content_.substr(at_, n);
    at_ += n;
    return out;
  }
  template <class T>
  T number() {
    T out;
    std::memcpy(&out, bytes(sizeof out).data(), sizeof out);
    return out;
  }
  uint64_t varint() {
    uint64_t out = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint8_t b = number<uint8_t>();
      out |= uint64_t{b & 0x7Fu} << shift;
      if (b < 0x80) return out;
    }
    fail("number is longer than ten bytes");
  }
  size_t offset() const { return base_ + at_; }

 private:
  std::string_view content_;
  const std::string& where_;
  size_t base_, at_ = 0;
};

}  // namespace weft::text
