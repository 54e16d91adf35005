#include "text/pieces.h"

#include "text/unicode.h"

namespace weft::text {

void Pieces::add_original(std::string_view text, size_t at, int32_t token, bool keep_bytes) {
  const size_t begin = bytes.size();
  if (keep_bytes || valid_utf8_prefix(text) == text.size()) {
    bytes += text;
    if (tracked) {
      for (size_t i = 0; i < text.size();) {
        const uint32_t n = decode_utf8(text, i).length;
        const uint32_t from = static_cast<uint32_t>(at + i);
        origin.insert(origin.end(), n, {from, from + n});
        i += n;
      }
    }
  } else {
    for (size_t i = 0; i < text.size();) {
      const Decoded d = decode_utf8(text, i);
      append_utf8(bytes, d.code);
      const uint32_t from = static_cast<uint32_t>(at + i);
      if (tracked) origin.resize(bytes.size(), {from, from + d.length});
      i += d.length;
    }
  }
  pieces.push_back({begin, bytes.size(), token});
}

void Pieces::add_copy(const Pieces& from, const Piece& piece) {
  const size_t begin = bytes.size();
  bytes.append(from.bytes, piece.begin, piece.end - piece.begin);
  if (tracked) {
    const auto first = from.origin.begin() + static_cast<std::ptrdiff_t>(piece.begin);
    origin.insert(origin.end(), first, first + static_cast<std::ptrdiff_t>(piece.end - piece.begin));
  }
  pieces.push_back({begin, bytes.size(), piece.token});
}

void Pieces::add_changed(const Pieces& from, const Piece& piece, const std::vector<Change>& changes) {
  const size_t begin = bytes.size();
  const std::string_view old = from.view(piece);
  size_t at = 0;  // in the old piece
  const auto skip = [&](size_t characters) {
    for (; characters > 0 && at < old.size(); --characters) at += decode_utf8(old, at).length;
  };
  for (const Change& c : changes) {
    if (c.code == kDropped) {
      if (tracked) skip(static_cast<size_t>(c.change));
      continue;
    }
    append_utf8(bytes, c.code);
    if (!tracked) continue;
    Origin o{0, 0};
    if (c.change > 0) {
      if (piece.begin + at > 0 && at > 0) o = from.origin[piece.begin + at - 1];
    } else if (at < old.size()) {
      o = from.origin[piece.begin + at];
      skip(1 + static_cast<size_t>(-c.change));
    }
    origin.resize(bytes.size(), o);
  }
  pieces.push_back({begin, bytes.size(), piece.token});
}

}  // namespace weft::text
