// Bytes of a file, unpacked while they are read: plain, gzip (several members in a row) or zstd (several frames).
#pragma once
#include <cstdint>
#include <memory>
#include <string>

namespace weft::data {

enum class Packed : uint8_t { kPlain, kGzip, kZstd };
Packed packed_by_name(const std::string& path);  // .gz, .zst

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Up to `count` bytes; 0 only at the end. InputError for a truncated or damaged file, with the offset.
  virtual int64_t read(char* out, int64_t count) = 0;
};
// Opens and goes `skip` unpacked bytes ahead. InputError when the file is missing or ends before.
std::unique_ptr<ByteSource> open_source(const std::string& path, Packed packed, int64_t skip = 0);

}  // namespace weft::data
