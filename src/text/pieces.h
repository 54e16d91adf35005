// A text on its way to the model: its bytes as rewritten so far, cut in pieces, each byte with where it came from.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weft::text {

struct Piece {
  size_t begin, end;   // in Pieces::bytes
  int32_t token = -1;  // an added token: no rule touches it any more
};
struct Origin {  // range of the original text that a byte stands for
  uint32_t begin, end;
};
constexpr uint32_t kDropped = 0xFFFFFFFF;
struct Change {  // one character of a rewritten text
  uint32_t code;   // or kDropped: no character, `change` old ones are gone
  int32_t change;  // 0 replaces the next old character; 1 is new; -n replaces one and drops the n old ones behind it
};

struct Pieces {
  std::string bytes;
  std::vector<Piece> pieces;
  size_t base = 0;              // where bytes[0] stands in the original text, as long as nothing was rewritten
  bool tracked = false;         // whether `origin` is kept
  std::vector<Origin> origin;   // [bytes.size()] when tracked

  std::string_view view(const Piece& p) const { return std::string_view(bytes).substr(p.begin, p.end - p.begin); }
  void clear() { bytes.clear(), pieces.clear(), origin.clear(); }
  // Adds a piece of the original text that starts there at `at`. Invalid bytes become U+FFFD unless `keep_bytes`.
  void add_original(std::string_view text, size_t at, int32_t token, bool keep_bytes);
  // Adds a piece of `from` unchanged.
  void add_copy(const Pieces& from, const Piece& piece);
  // Adds a piece of `from`, rewritten.
  void add_changed(const Pieces& from, const Piece& piece, const std::vector<Change>& changes);
};

}  // namespace weft::text
