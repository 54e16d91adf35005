#include "data/parquet_column.h"

#include <fmt/format.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "data/snappy.h"
#include "data/thrift.h"

namespace weft::data {
namespace {

constexpr int64_t kMaxPage = int64_t{256} << 20;   // bytes of one page, unpacked
constexpr int64_t kMaxEntries = int64_t{1} << 24;  // of one page

struct PageHeader {
  int64_t type = -1, unpacked = -1, packed = -1, crc = -1, values = -1, encoding = -1, def_bytes = 0, rep_bytes = 0;
  bool compressed = true;
  size_t size = 0;
};

PageHeader read_header(std::string_view bytes, const std::string& where) {
  ThriftReader in(bytes, where);
  PageHeader h;
  in.structure([&](int16_t field, ThriftType type) {
    switch (field) {
      case 1: h.type = in.integer(); break;
      case 2: h.unpacked = in.integer(); break;
      case 3: h.packed = in.integer(); break;
      case 4: h.crc = static_cast<uint32_t>(in.integer()); break;
      case 5: case 7:  // data page v1, dictionary page
        in.structure([&](int16_t f, ThriftType t) {
          if (f == 1) h.values = in.integer();
          else if (f == 2) h.encoding = in.integer();
          else if (field == 5 && (f == 3 || f == 4)) {
            if (in.integer() != 3) throw InputError(where + ": levels in the deprecated bit-packed encoding");
          } else in.skip(t);
        });
        break;
      case 8:
        in.structure([&](int16_t f, ThriftType t) {
          if (f == 1) h.values = in.integer();
          else if (f == 4) h.encoding = in.integer();
          else if (f == 5) h.def_bytes = in.integer();
          else if (f == 6) h.rep_bytes = in.integer();
          else if (f == 7) h.compressed = t == ThriftType::kTrue;
          else in.skip(t);
        });
        break;
      default: in.skip(type);
    }
  });
  h.size = in.position();
  return h;
}

// Bytes with a position; every read is checked.
struct Bytes {
  std::string_view all;
  const std::string& where;
  size_t at = 0;
  size_t left() const { return all.size() - at; }
  std::string_view take(uint64_t n) {
    if (n > left()) throw InputError(where + ": a page is cut off: got " + std::to_string(left()) + " bytes, want " + std::to_string(n));
    at += n;
    return all.substr(at - n, n);
  }
  template <class T>
  T load() {
    T v;
    std::memcpy(&v, take(sizeof v).data(), sizeof v);
    return v;
  }
  uint64_t varint() {
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint8_t b = load<uint8_t>();
      v |= static_cast<uint64_t>(b & 127) << shift;
      if (b < 128) return v;
    }
    throw InputError(where + ": a number of more than ten bytes");
  }
  int64_t zigzag() {
    const uint64_t v = varint();
    return static_cast<int64_t>(v >> 1) ^ -static_cast<int64_t>(v & 1);
  }
};

uint64_t bits_at(std::string_view bytes, size_t bit, int width) {  // little endian, width up to 64, inside `bytes`
  uint64_t v = 0;
  for (int got = 0; got < width;) {
    const size_t at = bit + static_cast<size_t>(got);
    const int take = std::min(8 - static_cast<int>(at % 8), width - got);
    const uint64_t part = (static_cast<uint8_t>(bytes[at / 8]) >> (at % 8)) & ((1u << take) - 1);
    v |= part << got;
    got += take;
  }
  return v;
}

// The hybrid of runs and packed groups of eight.
template <class T>
void read_runs(Bytes& in, int width, int64_t count, std::vector<T>& out) {
  out.clear();
  out.reserve(static_cast<size_t>(count));
  while (static_cast<int64_t>(out.size()) < count) {
    const uint64_t head = in.varint();
    const size_t want = static_cast<size_t>(count) - out.size();
    if (head & 1) {
      if ((head >> 1) > in.left() / static_cast<size_t>(std::max(width, 1)) + 1) throw InputError(in.where + ": packed values do not fit in their page");
      const std::string_view packed = in.take((head >> 1) * static_cast<uint64_t>(width));
      const size_t n = std::min<size_t>(want, (head >> 1) * 8);
      if (n == 0) throw InputError(in.where + ": an empty group of packed values");
      for (size_t i = 0; i < n; ++i) out.push_back(static_cast<T>(bits_at(packed, i * static_cast<size_t>(width), width)));
    } else {
      const std::string_view bytes = in.take(static_cast<uint64_t>(width + 7) / 8);
      if (head == 0) throw InputError(in.where + ": a run of no values");
      out.insert(out.end(), std::min<uint64_t>(want, head >> 1), static_cast<T>(bits_at(bytes, 0, static_cast<int>(bytes.size()) * 8)));
    }
  }
}

void read_levels(Bytes& in, int highest, int64_t count, std::vector<uint8_t>& out) {
  read_runs(in, std::bit_width(static_cast<unsigned>(highest)), count, out);
  for (uint8_t level : out) {
    if (level > highest) throw InputError(in.where + ": level out of range: got " + std::to_string(level) + ", want at most " + std::to_string(highest));
  }
}

std::vector<int64_t> read_delta(Bytes& in, int64_t count) {
  const uint64_t block = in.varint(), minis = in.varint(), total = in.varint();
  uint64_t value = static_cast<uint64_t>(in.zigzag());
  if (minis == 0 || block % minis != 0 || block > (1u << 20) || (block / minis) % 8 != 0 || total != static_cast<uint64_t>(count)) {
    throw InputError(in.where + ": delta encoding: got " + std::to_string(total) + " values in blocks of " + std::to_string(block) + " by " + std::to_string(minis) + ", want " + std::to_string(count) + " values");
  }
  std::vector<int64_t> out;
  out.reserve(static_cast<size_t>(count));
  if (count > 0) out.push_back(static_cast<int64_t>(value));
  const size_t per_mini = block / minis;
  while (static_cast<int64_t>(out.size()) < count) {
    const uint64_t least = static_cast<uint64_t>(in.zigzag());
    const std::string_view widths = in.take(minis);
    for (size_t m = 0; m < minis && static_cast<int64_t>(out.size()) < count; ++m) {
      const int width = static_cast<uint8_t>(widths[m]);
      if (width > 64) throw InputError(in.where + ": delta encoding: got a width of " + std::to_string(width) + " bits");
      const std::string_view packed = in.take(per_mini / 8 * static_cast<size_t>(width));
      for (size_t i = 0; i < per_mini && static_cast<int64_t>(out.size()) < count; ++i) {
        value += least + bits_at(packed, i * static_cast<size_t>(width), width);
        out.push_back(static_cast<int64_t>(value));
      }
    }
  }
  return out;
}

template <class T>
std::string json_number(T v) {
  if constexpr (std::is_floating_point_v<T>) {
    if (!std::isfinite(v)) return "null";
  }
  return fmt::format("{}", v);
}

}  // namespace

ParquetColumn::ParquetColumn(const ParquetFile& file, const ParquetNode& leaf, const ParquetChunk& chunk)
    : file_(file), leaf_(leaf), chunk_(chunk), next_page_(chunk.begin), left_(chunk.values) {}

void ParquetColumn::fail(const std::string& what) const { throw InputError("parquet '" + file_.path() + "': column \"" + leaf_.name + "\": " + what); }

bool ParquetColumn::ready() {
  while (at_ == count_) {
    if (left_ == 0) return false;
    read_page();
  }
  return true;
}

void ParquetColumn::need() {
  if (!ready()) fail("it ends before the rows do");
}

std::string_view ParquetColumn::value() {
  need();
  const bool there = defs_.empty() || defs_[at_] == leaf_.max_def;
  ++at_;
  if (!there) return {};
  return values_[value_at_++];
}

std::string ParquetColumn::unpack(std::string_view packed, size_t bytes) const {
  const std::string where = "parquet '" + file_.path() + "': column \"" + leaf_.name + "\"";
  switch (chunk_.codec) {
    case 0:
      if (packed.size() != bytes) fail("an uncompressed page of two sizes: got " + std::to_string(packed.size()) + ", want " + std::to_string(bytes));
      return std::string(packed);
    case 1: return snappy_unpack(packed, bytes, where);
    case 2: {
      std::string out(bytes, '\0');
      z_stream z{};
      if (inflateInit2(&z, 15 + 32) != Z_OK) throw OutOfMemoryError(where + ": no memory for the gzip decoder");
      z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
      z.avail_in = static_cast<uInt>(packed.size());
      z.next_out = reinterpret_cast<Bytef*>(out.data());
      z.avail_out = static_cast<uInt>(bytes);
      const int code = inflate(&z, Z_FINISH);
      const bool good = code == Z_STREAM_END && z.avail_out == 0;
      inflateEnd(&z);
      if (!good) fail("gzip data is damaged");
      return out;
    }
    case 6: {
      std::string out(bytes, '\0');
      const size_t n = ZSTD_decompress(out.data(), bytes, packed.data(), packed.size());
      if (ZSTD_isError(n) || n != bytes) fail(std::string("zstd data is damaged: ") + (ZSTD_isError(n) ? ZSTD_getErrorName(n) : "it ends too early"));
      return out;
    }
    default: break;
  }
  constexpr const char* names[] = {"", "", "", "LZO", "Brotli", "LZ4", "", "LZ4_RAW"};
  fail(std::string("compression ") + (chunk_.codec >= 0 && chunk_.codec < 8 ? names[chunk_.codec] : std::to_string(chunk_.codec)) + " is not read: want none, snappy, gzip or zstd");
}

void ParquetColumn::read_page() {
  const std::string where = "parquet '" + file_.path() + "': column \"" + leaf_.name + "\"";
  const std::string_view rest = file_.bytes().substr(static_cast<size_t>(next_page_), static_cast<size_t>(chunk_.end - next_page_));
  if (rest.empty()) fail("its pages end before its values do: " + std::to_string(left_) + " are missing");
  const PageHeader h = read_header(rest, where);
  if (h.packed < 0 || h.unpacked < 0 || h.unpacked > kMaxPage || static_cast<uint64_t>(h.packed) > rest.size() - h.size) {
    fail("a page of impossible size: got " + std::to_string(h.packed) + " bytes, " + std::to_string(h.unpacked) + " unpacked, want at most " + std::to_string(kMaxPage));
  }
  const std::string_view body = rest.substr(h.size, static_cast<size_t>(h.packed));
  next_page_ += static_cast<int64_t>(h.size) + h.packed;
  if (h.crc >= 0 && crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size())) != static_cast<uint64_t>(h.crc)) fail("a page is damaged: its CRC differs");
  if (h.type == 1) return;  // an index page
  if (h.type != 0 && h.type != 2 && h.type != 3) fail("unknown page type " + std::to_string(h.type));
  if (h.values < 0 || h.values > kMaxEntries || (h.type != 2 && h.values > left_)) fail("a page with an impossible number of values: got " + std::to_string(h.values));
  if (h.type == 2) {
    if (h.encoding != 0 && h.encoding != 2) fail("a dictionary in encoding " + std::to_string(h.encoding) + ", want plain");
    return read_dictionary(body, static_cast<size_t>(h.unpacked), h.values);
  }
  texts_.clear(), values_.clear(), reps_.clear(), defs_.clear();
  at_ = value_at_ = 0;
  count_ = static_cast<size_t>(h.values);
  left_ -= h.values;
  Bytes in{{}, where};
  if (h.type == 0) {
    page_ = unpack(body, static_cast<size_t>(h.unpacked));
    in.all = page_;
    if (leaf_.max_rep > 0) {
      Bytes levels{in.take(in.load<uint32_t>()), where};
      read_levels(levels, leaf_.max_rep, h.values, reps_);
    }
    if (leaf_.max_def > 0) {
      Bytes levels{in.take(in.load<uint32_t>()), where};
      read_levels(levels, leaf_.max_def, h.values, defs_);
    }
  } else {  // the levels stand before what is packed
    const int64_t levels_bytes = h.def_bytes + h.rep_bytes;
    if (h.def_bytes < 0 || h.rep_bytes < 0 || levels_bytes > h.packed || levels_bytes > h.unpacked) fail("levels that do not fit in their page");
    if (leaf_.max_rep > 0) {
      Bytes levels{body.substr(0, static_cast<size_t>(h.rep_bytes)), where};
      read_levels(levels, leaf_.max_rep, h.values, reps_);
    }
    if (leaf_.max_def > 0) {
      Bytes levels{body.substr(static_cast<size_t>(h.rep_bytes), static_cast<size_t>(h.def_bytes)), where};
      read_levels(levels, leaf_.max_def, h.values, defs_);
    }
    const std::string_view packed = body.substr(static_cast<size_t>(levels_bytes));
    page_ = h.compressed ? unpack(packed, static_cast<size_t>(h.unpacked - levels_bytes)) : std::string(packed);
    in.all = page_;
  }
  const int64_t there = defs_.empty() ? h.values : std::count(defs_.begin(), defs_.end(), static_cast<uint8_t>(leaf_.max_def));
  read_values(in.all.substr(in.at), static_cast<int32_t>(h.encoding), there);
}

void ParquetColumn::read_dictionary(std::string_view packed, size_t bytes, int64_t count) {
  if (has_dictionary_) fail("two dictionaries in one row group");
  has_dictionary_ = true;
  dictionary_bytes_ = unpack(packed, bytes);
  dictionary_ = plain(dictionary_bytes_, count);
  dictionary_texts_.swap(texts_);
}

std::vector<std::string_view> ParquetColumn::plain(std::string_view bytes, int64_t count) {
  const std::string where = "parquet '" + file_.path() + "': column \"" + leaf_.name + "\"";
  Bytes in{bytes, where};
  std::vector<std::string_view> out;
  out.reserve(static_cast<size_t>(std::min<int64_t>(count, static_cast<int64_t>(bytes.size()) * 8)));
  for (int64_t i = 0; i < count; ++i) {
    switch (leaf_.type) {
      case ParquetType::kBytes: out.push_back(in.take(in.load<uint32_t>())); break;
      case ParquetType::kFixed: out.push_back(in.take(static_cast<uint64_t>(std::max(leaf_.width, 0)))); break;
      case ParquetType::kInt32: out.push_back(keep(json_number(in.load<int32_t>()))); break;
      case ParquetType::kInt64: out.push_back(keep(json_number(in.load<int64_t>()))); break;
      case ParquetType::kFloat: out.push_back(keep(json_number(in.load<float>()))); break;
      case ParquetType::kDouble: out.push_back(keep(json_number(in.load<double>()))); break;
      case ParquetType::kBool:
        if (static_cast<size_t>(i) / 8 >= bytes.size()) fail("a page is cut off");
        out.push_back(bits_at(bytes, static_cast<size_t>(i), 1) != 0 ? "true" : "false");
        break;
      case ParquetType::kInt96: case ParquetType::kGroup: fail("values of 96 bits are not read: want text, numbers or booleans");
    }
  }
  return out;
}

void ParquetColumn::read_values(std::string_view bytes, int32_t encoding, int64_t count) {
  const std::string where = "parquet '" + file_.path() + "': column \"" + leaf_.name + "\"";
  Bytes in{bytes, where};
  const bool text = leaf_.type == ParquetType::kBytes || leaf_.type == ParquetType::kFixed;
  switch (encoding) {
    case 0: values_ = plain(bytes, count); return;
    case 2: case 8: {
      if (count == 0) return;
      const int width = in.load<uint8_t>();
      if (width > 32) fail("dictionary indices of " + std::to_string(width) + " bits");
      std::vector<uint32_t> indices;
      read_runs(in, width, count, indices);
      values_.reserve(indices.size());
      for (uint32_t i : indices) {
        if (i >= dictionary_.size()) fail("a dictionary index out of range: got " + std::to_string(i) + ", want below " + std::to_string(dictionary_.size()));
        values_.push_back(dictionary_[i]);
      }
      return;
    }
    case 3: {
      if (leaf_.type != ParquetType::kBool) break;
      std::vector<uint8_t> bits;
      Bytes runs{in.take(in.load<uint32_t>()), where};
      read_runs(runs, 1, count, bits);
      for (uint8_t b : bits) values_.push_back(b != 0 ? "true" : "false");
      return;
    }
    case 5:
      if (leaf_.type != ParquetType::kInt32 && leaf_.type != ParquetType::kInt64) break;
      for (int64_t v : read_delta(in, count)) values_.push_back(keep(json_number(leaf_.type == ParquetType::kInt32 ? static_cast<int32_t>(v) : v)));
      return;
    case 6:
      if (leaf_.type != ParquetType::kBytes) break;
      for (const std::vector<int64_t> lengths = read_delta(in, count); int64_t n : lengths) {
        if (n < 0) fail("a length below 0");
        values_.push_back(in.take(static_cast<uint64_t>(n)));
      }
      return;
    case 7: {
      if (!text) break;
      const std::vector<int64_t> shared = read_delta(in, count), own = read_delta(in, count);
      std::string last;
      int64_t total = 0;
      for (size_t i = 0; i < own.size(); ++i) {
        if (shared[i] < 0 || static_cast<uint64_t>(shared[i]) > last.size() || own[i] < 0) fail("a shared prefix that is longer than the value before");
        last.resize(static_cast<size_t>(shared[i]));
        last += in.take(static_cast<uint64_t>(own[i]));
        if ((total += static_cast<int64_t>(last.size())) > kMaxPage) fail("a page of more than " + std::to_string(kMaxPage) + " bytes");
        values_.push_back(keep(last));
      }
      return;
    }
    default: break;
  }
  fail("encoding " + std::to_string(encoding) + " is not read for this type: want plain, dictionary or delta");
}

}  // namespace weft::data
