#include "data/npy.h"

#include <charconv>
#include <cstring>

#include "base/error.h"

namespace weft::data {

NpyWriter::NpyWriter(const std::string& path, const char* type, const std::vector<int64_t>& shape) : path_(path), out_(path + ".part", 0) {
  std::string header = std::string("{'descr': '") + type + "', 'fortran_order': False, 'shape': (";
  for (size_t i = 0; i < shape.size(); ++i) header += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  header += shape.size() == 1 ? ",), }" : "), }";
  const size_t unpadded = 10 + header.size() + 1;
  header.append((64 - unpadded % 64) % 64, ' ');
  header += '\n';
  const uint16_t length = static_cast<uint16_t>(header.size());
  out_.write("\x93NUMPY\x01\x00", 8);
  out_.write(&length, 2);
  out_.write(header.data(), header.size());
}

void write_npy(const std::string& path, const char* type, const std::vector<int64_t>& shape, const void* data, int64_t bytes) {
  NpyWriter out(path, type, shape);
  out.write(data, static_cast<size_t>(bytes));
  out.finish();
}

NpyFile::NpyFile(const std::string& path) : path_(path), map_(std::make_shared<const MappedFile>(path)) {
  const std::string_view text = map_->text();
  const auto fail = [&](const char* rule, const std::string& got) { throw InputError("npy '" + path + "': rule " + rule + " broken: got " + got); };
  if (text.size() < 10 || std::memcmp(text.data(), "\x93NUMPY\x01\x00", 8) != 0) fail("magic", "other bytes, want .npy version 1.0");
  uint16_t length;
  std::memcpy(&length, text.data() + 8, 2);
  offset_ = 10 + length;
  if (offset_ > static_cast<int64_t>(text.size()) || offset_ % 8 != 0) fail("header-size", std::to_string(length));
  const std::string_view header = text.substr(10, length);
  const size_t type = header.find("'descr': '"), shape = header.find("'shape': (");
  if (type == std::string_view::npos || shape == std::string_view::npos || header.find("'fortran_order': False") == std::string_view::npos) fail("header", "'" + std::string(header) + "'");
  type_ = header.substr(type + 10, header.find('\'', type + 10) - type - 10);
  for (const char* at = header.data() + shape + 10; at < header.data() + header.size() && *at != ')';) {
    int64_t n = -1;
    const auto [end, error] = std::from_chars(at, header.data() + header.size(), n);
    if (error != std::errc() || n < 0 || (n > 0 && count_ > (int64_t{1} << 56) / n)) fail("shape", "'" + std::string(header) + "'");
    shape_.push_back(n);
    count_ *= n;
    at = end;
    while (at < header.data() + header.size() && (*at == ',' || *at == ' ')) ++at;
  }
  const int64_t width = type_ == "<i2" ? 2 : type_ == "<i4" || type_ == "<u4" ? 4 : type_ == "<i8" ? 8 : 0;
  if (width == 0) fail("type", type_ + ", want <i2, <i4, <u4 or <i8");
  if (offset_ + count_ * width != static_cast<int64_t>(text.size())) fail("file-size", std::to_string(text.size()) + " bytes, want " + std::to_string(offset_ + count_ * width));
}

void NpyFile::check_type(const char* want) const {
  if (type_ != want) throw InputError("npy '" + path_ + "': got elements of type " + type_ + ", want " + want);
}

}  // namespace weft::data
