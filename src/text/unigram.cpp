#include "text/unigram.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "text/unicode.h"

namespace weft::text {
namespace {
constexpr double kUnknownPenalty = 10.0;
constexpr double kUserDefinedBonus = 0.1;
constexpr uint32_t kNowhere = std::numeric_limits<uint32_t>::max();
}  // namespace

Unigram::Unigram(const Vocab& vocab, std::vector<double> scores, UnigramOptions options)
    : vocab_(vocab), scores_(std::move(scores)), options_(std::move(options)) {
  double lowest = std::numeric_limits<double>::infinity();
  for (int32_t id = 0; id < vocab_.size(); ++id) {
    const size_t i = static_cast<size_t>(id);
    if (!options_.unusable.empty() && options_.unusable[i]) continue;
    if (!vocab_.has(id)) continue;  // byte-level: a token that no bytes are written as
    trie_.add(vocab_.token(id), id);
    if (!options_.user_defined.empty() && options_.user_defined[i]) continue;
    lowest = std::min(lowest, scores_[i]);
  }
  unknown_score_ = options_.single_precision ? static_cast<float>(lowest) - static_cast<float>(kUnknownPenalty) : lowest - kUnknownPenalty;
  for (int32_t id = 0; id < vocab_.size() && !options_.user_defined.empty(); ++id) {
    // Above any sum of other tokens, which are logarithms of probabilities; what SentencePiece 0.2.3 does, so that ties fall alike.
    if (options_.user_defined[static_cast<size_t>(id)]) scores_[static_cast<size_t>(id)] = kUserDefinedBonus * static_cast<double>(vocab_.token(id).size()) - kUserDefinedBonus;
  }
  for (unsigned b = 0; b < 256; ++b) {
    constexpr const char* digits = "0123456789ABCDEF";
    const char name[] = {'<', '0', 'x', digits[b >> 4], digits[b & 15], '>', 0};
    byte_id_[b] = vocab_.id_of(name);
  }
}

template <class Float>
void Unigram::best_path(std::string_view text, Scratch& s) const {
  s.best.assign(text.size() + 1, {0, -1, kNowhere});
  const Float unknown = static_cast<Float>(unknown_score_);
  for (size_t at = 0; at < text.size();) {
    const Float here = static_cast<Float>(s.best[at].score);
    const size_t length = options_.raw_bytes ? 1 : decode_utf8(text, at).length;
    bool has_single = false;
    uint32_t node = 0;
    for (size_t end = at; end < text.size();) {
      node = trie_.child(node, static_cast<uint8_t>(text[end++]));
      if (node == 0) break;
      const int32_t id = trie_.value(node);
      if (id < 0) continue;
      const Float score = here + static_cast<Float>(scores_[static_cast<size_t>(id)]);
      Scratch::Node& to = s.best[end];
      if (to.from == kNowhere || score > static_cast<Float>(to.score)) to = {score, id, static_cast<uint32_t>(at)};
      has_single |= end - at == length;
    }
    if (!has_single) {
      if (options_.unknown < 0) throw InputError("encode: a character is not in the vocabulary, which has no unknown token");
      const Float score = here + unknown;
      Scratch::Node& to = s.best[at + length];
      if (to.from == kNowhere || score > static_cast<Float>(to.score)) to = {score, options_.unknown, static_cast<uint32_t>(at)};
    }
    at += length;
  }
}

void Unigram::encode(std::string_view text, Scratch& s, std::vector<int32_t>& ids, std::vector<uint32_t>* ends) const {
  if (text.empty()) return;
  if (text.size() >= kNowhere) throw InputError("encode: got " + std::to_string(text.size()) + " bytes in one piece, want less than 4 GiB");
  if (options_.single_precision) best_path<float>(text, s);
  else best_path<double>(text, s);
  s.path.clear();  // ends, last first; neighbouring unknown characters are one
  bool in_unknown = false;
  for (uint32_t end = static_cast<uint32_t>(text.size()); end > 0; end = s.best[end].from) {
    const bool unknown = s.best[end].id == options_.unknown && options_.unknown >= 0;
    if (!unknown || !in_unknown) s.path.push_back(end);
    in_unknown = unknown;
  }
  uint32_t begin = 0;
  for (auto end = s.path.rbegin(); end != s.path.rend(); ++end) {
    const std::string_view piece = text.substr(begin, *end - begin);
    int32_t id = s.best[*end].id;
    if (id == options_.unknown) {
      const int32_t whole = options_.single_precision ? -1 : vocab_.id_of(piece);  // upstream looks its string up again
      if (whole >= 0) {
        id = whole;
      } else if (options_.byte_fallback &&
                 std::all_of(piece.begin(), piece.end(), [&](char c) { return byte_id_[static_cast<uint8_t>(c)] >= 0; })) {
        for (const char c : piece) {
          ids.push_back(byte_id_[static_cast<uint8_t>(c)]);
          if (ends != nullptr) ends->push_back(*end);
        }
        begin = *end;
        continue;
      }
    }
    ids.push_back(id);
    if (ends != nullptr) ends->push_back(*end);
    begin = *end;
  }
}

}  // namespace weft::text
