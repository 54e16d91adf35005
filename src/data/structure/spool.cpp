#include "data/structure/spool.h"

#include <cstring>

#include "base/error.h"

namespace weft::data {
namespace {

template <class T>
void put(std::string& out, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void put_text(std::string& out, std::string_view text) {
  put(out, static_cast<uint32_t>(text.size()));
  out.append(text);
}

class Cursor {
 public:
  explicit Cursor(std::string_view bytes) : bytes_(bytes) {}
  template <class T>
  T get() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  size_t at() const { return at_; }
  std::string text() { return std::string(take(get<uint32_t>())); }
  uint32_t count(size_t each) {  // of things of `each` bytes at least
    const uint32_t n = get<uint32_t>();
    if (n > (bytes_.size() - at_) / each) throw InputError("prepare: the record of an earlier run is damaged\n  try: --overwrite");
    return n;
  }

 private:
  std::string_view take(size_t n) {
    if (n > bytes_.size() - at_) throw InputError("prepare: the record of an earlier run is damaged\n  try: --overwrite");
    at_ += n;
    return bytes_.substr(at_ - n, n);
  }
  std::string_view bytes_;
  size_t at_ = 0;
};

}  // namespace

std::string packed(const CppSource& s) {
  std::string out;
  put(out, s.parsed), put(out, s.errors), put(out, s.macro_functions), put(out, s.replaced), put_text(out, s.first_error);
  put(out, static_cast<uint32_t>(s.pieces.size()));
  for (const CppPiece& p : s.pieces) {
    put(out, p.kind), put(out, p.line), put(out, p.offset), put(out, p.symbol.high), put(out, p.symbol.low);
    put_text(out, p.name), put_text(out, p.text);
    put(out, static_cast<uint32_t>(p.runs.size()));
    for (const ByteRun& r : p.runs) put(out, r.bytes), put(out, r.structure), put(out, r.depth), put(out, r.sibling), put(out, r.node);
    put(out, static_cast<uint32_t>(p.calls.size()));
    for (const SymbolHash& c : p.calls) put(out, c.high), put(out, c.low);
  }
  return out;
}

CppSource unpacked(std::string_view record, std::vector<uint32_t>* names) {
  Cursor in(record);
  CppSource s;
  s.parsed = in.get<bool>(), s.errors = in.get<int32_t>(), s.macro_functions = in.get<int32_t>(), s.replaced = in.get<int32_t>(), s.first_error = in.text();
  s.pieces.resize(in.count(34));
  for (CppPiece& p : s.pieces) {
    p.kind = in.get<CppPiece::Kind>(), p.line = in.get<int32_t>(), p.offset = in.get<int32_t>();
    p.symbol.high = in.get<uint64_t>(), p.symbol.low = in.get<uint64_t>();
    if (names != nullptr) names->push_back(static_cast<uint32_t>(in.at() + 4));
    p.name = in.text(), p.text = in.text();
    p.runs.resize(in.count(11));
    for (ByteRun& r : p.runs) {
      r.bytes = in.get<uint32_t>(), r.structure = in.get<uint8_t>();
      r.depth = in.get<uint16_t>(), r.sibling = in.get<uint16_t>(), r.node = in.get<uint16_t>();
    }
    p.calls.resize(in.count(16));
    for (SymbolHash& c : p.calls) c.high = in.get<uint64_t>(), c.low = in.get<uint64_t>();
  }
  return s;
}

void Spool::append(PartFile& to, std::string_view record) {
  const auto n = static_cast<uint64_t>(record.size());
  to.write(&n, 8);
  to.write(record.data(), record.size());
}

std::string_view Spool::record(int64_t& at) const {
  const std::string_view all = file_->text();
  uint64_t n = 0;
  const bool head = all.size() - static_cast<size_t>(at) >= 8;
  if (head) std::memcpy(&n, all.data() + at, 8);
  if (!head || n > all.size() - static_cast<size_t>(at) - 8) throw InputError("prepare: the record of an earlier run is cut off\n  try: --overwrite");
  const std::string_view out = all.substr(static_cast<size_t>(at) + 8, n);
  at += 8 + static_cast<int64_t>(n);
  return out;
}

}  // namespace weft::data
