#include "data/structure/aligned.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace weft::data {

ByteAligned::ByteAligned(text::Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {
  bytes_.resize(static_cast<size_t>(tokenizer_.vocab_size()));
  for (int32_t id = 0; id < tokenizer_.vocab_size(); ++id) {
    if (tokenizer_.has(id)) bytes_[static_cast<size_t>(id)] = tokenizer_.token_bytes(id);
  }
}

void ByteAligned::encode(std::string_view text, std::vector<int32_t>& ids, std::vector<uint32_t>& begins) const {
  ids.clear(), begins.clear();
  tokenizer_.encode_append(text, {}, ids);
  size_t at = 0;
  bool same = true;
  for (const int32_t id : ids) {
    const std::string& b = bytes_[static_cast<size_t>(id)];
    same = text.compare(at, b.size(), b) == 0;
    if (!same) break;
    begins.push_back(static_cast<uint32_t>(at));
    at += b.size();
  }
  if (same && at == text.size()) return;
  const text::Encoding e = tokenizer_.encode_with_offsets(text);
  ids.clear(), begins.clear();
  size_t end = 0;
  for (size_t i = 0; i < e.ids.size(); ++i) {
    if (e.from_post[i] != 0) continue;
    ids.push_back(e.ids[i]);
    begins.push_back(static_cast<uint32_t>(std::min({end, e.offsets[i].begin, text.empty() ? 0 : text.size() - 1})));
    end = std::max(end, e.offsets[i].end);
  }
}

PieceTokens align(const ByteAligned& encoder, const CppPiece& piece) {
  PieceTokens out;
  std::vector<uint32_t> begins;
  encoder.encode(piece.text, out.ids, begins);
  const size_t n = out.ids.size();
  out.structure.resize(n), out.depth.resize(n), out.sibling.resize(n), out.node.resize(n);
  size_t run = 0;
  uint32_t end = piece.runs.empty() ? 0 : piece.runs[0].bytes;
  for (size_t i = 0; i < n; ++i) {
    while (begins[i] >= end && run + 1 < piece.runs.size()) end += piece.runs[++run].bytes;
    WEFT_CHECK(begins[i] < end, "a token behind its text");
    const ByteRun& r = piece.runs[run];
    out.structure[i] = r.structure, out.depth[i] = r.depth, out.sibling[i] = r.sibling, out.node[i] = r.node;
  }
  return out;
}

void append_packed(const PieceTokens& p, std::string& out) {
  const auto put = [&](const auto& v) { out.append(reinterpret_cast<const char*>(v.data()), v.size() * sizeof v[0]); };
  put(p.ids), put(p.depth), put(p.sibling), put(p.node), put(p.structure);
}

void PieceView::ids(int64_t count, std::vector<int32_t>& out) const {
  const size_t at = out.size();
  out.resize(at + static_cast<size_t>(count));
  std::memcpy(out.data() + at, bytes, static_cast<size_t>(count) * 4);
}
void PieceView::structure(int64_t count, std::vector<int32_t>& out) const {
  const auto* from = reinterpret_cast<const unsigned char*>(bytes) + 10 * tokens;
  out.insert(out.end(), from, from + count);
}
void PieceView::column(int which, int64_t count, std::vector<int32_t>& out) const {
  const char* from = bytes + (4 + 2 * which) * tokens;
  for (int64_t i = 0; i < count; ++i) {
    uint16_t v;
    std::memcpy(&v, from + 2 * i, 2);
    out.push_back(v == kAbsent ? -1 : v);
  }
}

}  // namespace weft::data
