#include "data/thrift.h"

#include "base/error.h"

namespace weft::data {

void ThriftReader::fail(const std::string& what) const { throw InputError(where_ + ": damaged at byte " + std::to_string(at_) + " of its Thrift data: " + what); }

uint8_t ThriftReader::byte() {
  if (at_ >= bytes_.size()) fail("it is cut off");
  return static_cast<uint8_t>(bytes_[at_++]);
}

uint64_t ThriftReader::varint() {
  uint64_t out = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const uint8_t b = byte();
    out |= static_cast<uint64_t>(b & 127) << shift;
    if (b < 128) return out;
  }
  fail("a number of more than ten bytes");
}

int64_t ThriftReader::integer() {
  const uint64_t v = varint();
  return static_cast<int64_t>(v >> 1) ^ -static_cast<int64_t>(v & 1);
}

std::string_view ThriftReader::binary() {
  const uint64_t n = varint();
  if (n > bytes_.size() - at_) fail("a text of " + std::to_string(n) + " bytes does not fit");
  at_ += n;
  return bytes_.substr(at_ - n, n);
}

ThriftReader::ListHead ThriftReader::list_head() {
  const uint8_t head = byte();
  const uint64_t count = head >> 4 == 15 ? varint() : head >> 4;
  if (count > bytes_.size() - at_) fail("a list of " + std::to_string(count) + " elements does not fit");
  return {count, static_cast<ThriftType>(head & 15)};
}

void ThriftReader::skip(ThriftType type) {
  switch (type) {
    case ThriftType::kTrue: case ThriftType::kFalse: return;  // the value is in the type
    case ThriftType::kByte: byte(); return;
    case ThriftType::kI16: case ThriftType::kI32: case ThriftType::kI64: varint(); return;
    case ThriftType::kDouble:
      for (int i = 0; i < 8; ++i) byte();
      return;
    case ThriftType::kBinary: binary(); return;
    case ThriftType::kList: case ThriftType::kSet:
      list([&](ThriftType element) {
        if (element == ThriftType::kTrue || element == ThriftType::kFalse) byte();  // elements carry a byte each
        else skip(element);
      });
      return;
    case ThriftType::kStruct:
      structure([&](int16_t, ThriftType field) { skip(field); });
      return;
    case ThriftType::kMap: {
      const Deeper guard(*this);
      const uint64_t count = varint();
      if (count > bytes_.size() - at_) fail("a map of " + std::to_string(count) + " entries does not fit");
      const uint8_t types = count > 0 ? byte() : 0;
      for (uint64_t i = 0; i < count; ++i) skip(static_cast<ThriftType>(types >> 4)), skip(static_cast<ThriftType>(types & 15));
      return;
    }
    case ThriftType::kStop: break;
  }
  fail("unknown type " + std::to_string(static_cast<int>(type)));
}

}  // namespace weft::data
