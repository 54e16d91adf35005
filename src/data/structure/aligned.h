// Tokens of a piece of source, each with the values of its first byte.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/structure/cpp_source.h"
#include "text/tokenizer.h"

namespace weft::data {

class ByteAligned {  // const calls from several threads at once are fine
 public:
  explicit ByteAligned(text::Tokenizer tokenizer);
  // Ids, and where the bytes of each begin: one token's bytes end where the next one's begin. For tokenizers whose tokens are the
  // text itself; one that rewrites it (a normalizer) gives its own offsets, and blanks that those leave out belong to the token after.
  void encode(std::string_view text, std::vector<int32_t>& ids, std::vector<uint32_t>& begins) const;
  int64_t vocab_size() const { return tokenizer_.vocab_size(); }

 private:
  text::Tokenizer tokenizer_;
  std::vector<std::string> bytes_;  // of each id
};

struct PieceTokens {  // one value a token in each
  std::vector<int32_t> ids;
  std::vector<uint8_t> structure;
  std::vector<uint16_t> depth, sibling, node;
};
PieceTokens align(const ByteAligned&, const CppPiece&);

// PieceTokens as bytes: 11 a token, and views of them.
void append_packed(const PieceTokens&, std::string& out);
struct PieceView {
  const char* bytes;
  int64_t tokens;
  // Values of the first `count` tokens, appended; kAbsent becomes -1.
  void ids(int64_t count, std::vector<int32_t>& out) const;
  void structure(int64_t count, std::vector<int32_t>& out) const;
  void column(int which, int64_t count, std::vector<int32_t>& out) const;  // 0 depth, 1 sibling, 2 node
};
constexpr int64_t kPackedTokenBytes = 11;

}  // namespace weft::data
