#include "text/wordpiece.h"

#include "base/error.h"
#include "text/unicode.h"

namespace weft::text {

WordPiece::WordPiece(const Vocab& vocab, WordPieceOptions options) : options_(std::move(options)) {
  for (int32_t id = 0; id < vocab.size(); ++id) {
    if (vocab.has(id)) trie_.add(vocab.token(id), id);
  }
  has_inside_ = true;
  for (const char c : options_.prefix) {
    inside_ = trie_.child(inside_, static_cast<uint8_t>(c));
    if (inside_ == 0) has_inside_ = false;
    if (inside_ == 0) break;
  }
}

// The longest token that `text` starts with, from a node on, ending at the end of a character; -1 when there is none.
int32_t WordPiece::longest(uint32_t node, std::string_view text, size_t& length) const {
  int32_t best = -1;
  for (size_t i = 0; i < text.size();) {
    node = trie_.child(node, static_cast<uint8_t>(text[i++]));
    if (node == 0) break;
    if (trie_.value(node) >= 0) best = trie_.value(node), length = i;
  }
  return best;
}

void WordPiece::encode(std::string_view word, std::vector<int32_t>& ids, std::vector<uint32_t>* ends) const {
  if (word.empty()) return;
  const size_t before = ids.size(), before_ends = ends != nullptr ? ends->size() : 0;
  size_t characters = 0;
  for (size_t at = 0; at < word.size() && characters <= options_.longest_word; ++characters) at += decode_utf8(word, at).length;
  bool known = characters <= options_.longest_word;
  for (size_t at = 0; known && at < word.size();) {
    size_t length = 0;
    const int32_t id = at == 0 ? longest(0, word, length) : has_inside_ ? longest(inside_, word.substr(at), length) : -1;
    if (id < 0) {
      known = false;
      break;
    }
    at += length;
    ids.push_back(id);
    if (ends != nullptr) ends->push_back(static_cast<uint32_t>(at));
  }
  if (known) return;
  if (options_.unknown < 0) throw InputError("encode: a word is not in the vocabulary, which has no unknown token");
  ids.resize(before);
  ids.push_back(options_.unknown);
  if (ends != nullptr) {
    ends->resize(before_ends);
    ends->push_back(static_cast<uint32_t>(word.size()));
  }
}

void WordLevel::encode(std::string_view word, std::vector<int32_t>& ids, std::vector<uint32_t>* ends) const {
  int32_t id = vocab_.id_of(word);
  if (id < 0) id = unknown_;
  if (id < 0) throw InputError("encode: a word is not in the vocabulary, which has no unknown token");
  ids.push_back(id);
  if (ends != nullptr) ends->push_back(static_cast<uint32_t>(word.size()));
}

}  // namespace weft::text
