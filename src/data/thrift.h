// Thrift's compact protocol, as far as Parquet's footers and page headers need it. Every read is checked against the end.
// Source: Apache Thrift, "Thrift compact protocol encoding".
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace weft::data {

enum class ThriftType : uint8_t { kStop = 0, kTrue = 1, kFalse = 2, kByte = 3, kI16 = 4, kI32 = 5, kI64 = 6, kDouble = 7, kBinary = 8, kList = 9, kSet = 10, kMap = 11, kStruct = 12 };

class ThriftReader {
 public:
  ThriftReader(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  // Calls field(number, type) for each field of a struct; a field that the callback does not read has to be skipped by it.
  template <class F>
  void structure(F&& field) {
    const Deeper guard(*this);
    for (int16_t number = 0;;) {
      const uint8_t head = byte();
      const ThriftType type = static_cast<ThriftType>(head & 15);
      if (type == ThriftType::kStop) return;
      number = head >> 4 ? static_cast<int16_t>(number + (head >> 4)) : static_cast<int16_t>(integer());
      field(number, type);
    }
  }
  template <class F>
  void list(F&& element) {  // calls element(type) for each
    const Deeper guard(*this);
    const auto [count, type] = list_head();
    for (uint64_t i = 0; i < count; ++i) element(type);
  }
  int64_t integer();           // i16, i32, i64
  std::string_view binary();
  void skip(ThriftType);
  size_t position() const { return at_; }

 private:
  struct Deeper {
    explicit Deeper(ThriftReader& r) : r(r) {
      if (++r.depth_ > 32) r.fail("nested more than 32 deep");
    }
    ~Deeper() { --r.depth_; }
    ThriftReader& r;
  };
  struct ListHead { uint64_t count; ThriftType type; };
  ListHead list_head();
  uint8_t byte();
  uint64_t varint();
  [[noreturn]] void fail(const std::string& what) const;
  std::string_view bytes_;
  std::string where_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace weft::data
