#include "text/tokenizer.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <thread>

#include "base/error.h"
#include "text/byte_level.h"
#include "text/state.h"
#include "text/unicode.h"

namespace weft::text {
namespace {

using State = Tokenizer::State;

constexpr std::string_view kSpaceSign = "\u2581";

// Appends the ids of a word. `readable` bytes may be read from its start.
void encode_word(const State& state, std::string_view word, size_t readable, Scratch& s, std::vector<int32_t>& ids) {
  if (word.size() <= WordCache::kShort) {
    const WordCache::Key key = WordCache::key_of(word, readable);
    WordCache::Row& row = s.cache.row(key);
    if (row.low == key.low && row.high == key.high) {
      const size_t at = ids.size();
      ids.resize(at + 3);
      std::copy(row.ids, row.ids + 3, ids.begin() + static_cast<std::ptrdiff_t>(at));
      ids.resize(at + row.count);
      return;
    }
    const size_t at = ids.size();
    state.encode_piece(word, s, ids, nullptr);
    if (ids.size() - at <= 3) {
      row = {key.low, key.high, {0, 0, 0}, static_cast<uint32_t>(ids.size() - at)};
      std::copy(ids.begin() + static_cast<std::ptrdiff_t>(at), ids.end(), row.ids);
      return;
    }
    ids.resize(at);
  }
  if (word.size() > WordCache::kLong) return state.encode_piece(word, s, ids, nullptr);
  const uint64_t hash = XXH3_64bits(word.data(), word.size());
  if (s.cache.find_long(word, hash, ids)) return;
  const size_t at = ids.size();
  state.encode_piece(word, s, ids, nullptr);
  s.cache.put_long(word, hash, ids.data() + at, ids.size() - at);
}

// Calls f(begin, end, id) for the parts of a text: id is an added token, or -1 for what is between them.
template <class F>
void for_each_part(const State& state, const AddedMatcher& matcher, std::string_view text, bool parse_special, F f) {
  size_t done = 0, from = 0, begin = 0, end = 0;
  int32_t index = -1;
  while (matcher.find(text, from, begin, end, index)) {
    const AddedToken& token = state.added[static_cast<size_t>(index)];
    from = end;
    if (!parse_special && token.special) continue;
    if (token.single_word) {
      const auto word_before = [&] {
        size_t at = begin - 1;
        while (at > 0 && begin - at < 4 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
        return has(Property::kRegexWord, decode_utf8(text, at).code);
      };
      if ((begin > 0 && word_before()) || (end < text.size() && has(Property::kRegexWord, decode_utf8(text, end).code))) continue;
    }
    if (token.lstrip) {
      size_t at = begin;
      while (at > done) {
        size_t before = at - 1;
        while (before > done && at - before < 4 && (static_cast<uint8_t>(text[before]) & 0xC0) == 0x80) --before;
        if (!is_space(decode_utf8(text, before).code)) break;
        at = before;
      }
      begin = at;
    }
    if (token.rstrip) {
      while (end < text.size()) {
        const Decoded d = decode_utf8(text, end);
        if (!is_space(d.code)) break;
        end += d.length;
      }
    }
    // A match inside white space that the token before it took is still a token, and goes back, as upstream does.
    if (done < begin) f(done, begin, -1);
    f(begin, end, token.id);
    done = end;
  }
  if (done < text.size()) f(done, text.size(), -1);
}

// Words of a text without added tokens by one pattern, straight into ids.
void encode_by_regex(const State& state, std::string_view text, Scratch& s, std::vector<int32_t>& out) {
  s.cuts.matchers.resize(state.pre_tokenizers.size());
  size_t rule = 0;
  while (state.pre_tokenizers[rule].regex == nullptr) ++rule;
  auto& matcher = s.cuts.matchers[rule];
  if (!matcher) matcher.emplace(*state.pre_tokenizers[rule].regex);
  matcher->start(text);
  size_t done = 0, begin = 0, end = 0;
  while (matcher->next(begin, end)) {
    if (begin > done) encode_word(state, text.substr(done, begin - done), text.size() - done, s, out);
    if (end > begin) encode_word(state, text.substr(begin, end - begin), text.size() - begin, s, out);
    done = end;
  }
  if (done < text.size()) encode_word(state, text.substr(done), text.size() - done, s, out);
}

// Runs every rule over one part of the text without plain added tokens, up to the model.
void to_pieces(const State& state, std::string_view part, size_t at, EncodeOptions options, Scratch& s, bool tracked) {
  Pieces& p = s.pieces;
  p.clear();
  p.base = at;
  p.tracked = tracked || state.track_origin;
  p.add_original(part, at, -1, state.byte_level);
  normalize(state.normalizers, p, s.normal);
  if (!state.normalized_matcher.empty()) {
    std::vector<Piece> cut;
    for (const Piece& piece : p.pieces) {
      for_each_part(state, state.normalized_matcher, p.view(piece), options.parse_special, [&](size_t begin, size_t end, int32_t id) {
        cut.push_back({piece.begin + begin, piece.begin + end, id});
      });
    }
    p.pieces = std::move(cut);
  }
  std::erase_if(p.pieces, [](const Piece& piece) { return piece.begin == piece.end; });
  pre_tokenize(state.pre_tokenizers, p, s.cuts);
}

void append_text(const State& state, std::string_view text, EncodeOptions options, Scratch& s, std::vector<int32_t>& out) {
  for_each_part(state, state.plain_matcher, text, options.parse_special, [&](size_t begin, size_t end, int32_t id) {
    if (id >= 0) return out.push_back(id);
    const std::string_view part = text.substr(begin, end - begin);
    if (state.one_regex && surely_normal(state.normalizers, part)) return encode_by_regex(state, part, s, out);
    to_pieces(state, part, begin, options, s, false);
    for (const Piece& piece : s.pieces.pieces) {
      if (piece.token >= 0) out.push_back(piece.token);
      else encode_word(state, s.pieces.view(piece), s.pieces.bytes.size() - piece.begin, s, out);
    }
  });
}

// Takes white space off the ends of a token's range, as upstream's byte-level post-processor does.
void trim(const State& state, std::string_view text, const PostRule& rule, Encoding& e) {
  for (size_t i = 0; i < e.ids.size(); ++i) {
    const std::string_view token = state.vocab.has(e.ids[i]) ? state.vocab.token(e.ids[i]) : std::string_view();
    const std::vector<uint32_t> codes = code_points(token);
    const auto space = [](uint32_t c) { return c == byte_to_char(' ') || is_space(c); };
    size_t leading = 0, trailing = 0;
    while (leading < codes.size() && space(codes[leading])) ++leading;
    while (trailing < codes.size() && space(codes[codes.size() - 1 - trailing])) ++trailing;
    ByteRange& o = e.offsets[i];
    if (leading > 0) {
      if ((i == 0 || o.begin == 0) && rule.add_prefix_space && leading == 1) leading = 0;
      for (; leading > 0 && o.begin < o.end; --leading) o.begin += decode_utf8(text, o.begin).length;
    }
    for (; trailing > 0 && o.end > o.begin; --trailing) {
      do --o.end;
      while (o.end > o.begin && (static_cast<uint8_t>(text[o.end]) & 0xC0) == 0x80);
    }
  }
}

template <class T>
std::vector<T> around(const PostRule& rule, const std::vector<T>& inside, T (*fixed)(int32_t)) {
  std::vector<T> out;
  for (const int32_t id : rule.ids) {
    if (id < 0) out.insert(out.end(), inside.begin(), inside.end());
    else out.push_back(fixed(id));
  }
  return out;
}

}  // namespace

Tokenizer::Tokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::unique_ptr<Scratch> Tokenizer::State::borrow() const {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      auto scratch = std::move(free_.back());
      free_.pop_back();
      return scratch;
    }
  }
  return std::make_unique<Scratch>();
}
void Tokenizer::State::give_back(std::unique_ptr<Scratch> scratch) const {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(scratch));
}

void Tokenizer::State::encode_piece(std::string_view piece, Scratch& s, std::vector<int32_t>& ids, std::vector<uint32_t>* ends) const {
  if (bpe) bpe->encode(piece, s.bpe, ids, ends);
  else if (unigram) unigram->encode(piece, s.unigram, ids, ends);
  else if (word_piece) word_piece->encode(piece, ids, ends);
  else if (spm_bpe) spm_bpe->encode(piece, s.spm_bpe, ids, ends);
  else word_level->encode(piece, ids, ends);
}

void Tokenizer::encode_append(std::string_view text, EncodeOptions options, std::vector<int32_t>& out) const {
  auto scratch = state_->borrow();
  if (!options.add_special || state_->post.empty()) {
    append_text(*state_, text, options, *scratch, out);
  } else {
    std::vector<int32_t> ids;
    append_text(*state_, text, options, *scratch, ids);
    for (const PostRule& rule : state_->post) {
      if (rule.kind == PostRule::kTemplate) ids = around<int32_t>(rule, ids, [](int32_t id) { return id; });
    }
    out.insert(out.end(), ids.begin(), ids.end());
  }
  state_->give_back(std::move(scratch));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<int32_t> out;
  encode_append(text, options, out);
  return out;
}

Encoding Tokenizer::encode_with_offsets(std::string_view text, EncodeOptions options) const {
  if (text.size() > UINT32_MAX) throw InputError("encode with offsets: got " + std::to_string(text.size()) + " bytes, want less than 4 GiB");
  auto s = state_->borrow();
  Encoding e;
  for_each_part(*state_, state_->plain_matcher, text, options.parse_special, [&](size_t from, size_t to, int32_t id) {
    if (id >= 0) {
      e.ids.push_back(id);
      e.offsets.push_back({from, to});
      return;
    }
    to_pieces(*state_, text.substr(from, to - from), from, options, *s, true);
    const Pieces& p = s->pieces;
    for (const Piece& piece : p.pieces) {
      s->ends.clear();
      if (piece.token >= 0) {
        e.ids.push_back(piece.token);
        s->ends.push_back(static_cast<uint32_t>(piece.end - piece.begin));
      } else {
        state_->encode_piece(p.view(piece), *s, e.ids, &s->ends);
      }
      uint32_t begin = 0, before = 0;
      for (const uint32_t end : s->ends) {
        if (end != before) begin = before;  // byte tokens of one character share its range
        before = end;
        e.offsets.push_back({p.origin[piece.begin + begin].begin, p.origin[piece.begin + end - 1].end});
      }
    }
  });
  e.from_post.assign(e.ids.size(), 0);
  state_->give_back(std::move(s));
  for (const PostRule& rule : state_->post) {
    if (rule.kind == PostRule::kTrimOffsets) {
      trim(*state_, text, rule, e);
    } else if (options.add_special) {
      e.offsets = around<ByteRange>(rule, e.offsets, [](int32_t) { return ByteRange{0, 0}; });
      e.from_post = around<uint8_t>(rule, e.from_post, [](int32_t) { return uint8_t{1}; });
      e.ids = around<int32_t>(rule, e.ids, [](int32_t id) { return id; });
    }
  }
  return e;
}

std::vector<std::vector<int32_t>> Tokenizer::encode_batch(std::span<const std::string_view> texts, EncodeOptions options,
                                                          int threads) const {
  std::vector<std::vector<int32_t>> out(texts.size());
  size_t count = threads > 0 ? static_cast<size_t>(threads) : std::max(1u, std::thread::hardware_concurrency());
  count = std::min(count, std::max<size_t>(1, texts.size()));
  std::atomic<size_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto work = [&] {
    try {
      for (size_t i; (i = next.fetch_add(1)) < texts.size();) encode_append(texts[i], options, out[i]);
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
      next = texts.size();
    }
  };
  std::vector<std::thread> others;
  for (size_t i = 1; i < count; ++i) others.emplace_back(work);
  work();
  for (std::thread& t : others) t.join();
  if (error) std::rethrow_exception(error);
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const { return decode_from(ids, skip_special, true); }

std::string Tokenizer::decode_from(std::span<const int32_t> ids, bool skip_special, bool begins) const {
  std::vector<std::string> tokens;
  LeadingSpace leading = begins ? state_->leading_space : LeadingSpace::kStays;
  const auto decode_text = [&](int32_t id) {
    if (state_->sentence_piece && id == state_->unknown) {
      leading = LeadingSpace::kStays;
      return state_->unknown_surface;
    }
    const int32_t added = state_->added_of_id[static_cast<size_t>(id)];
    if (added >= 0) return state_->added_text[static_cast<size_t>(added)];  // control pieces are no text to that decoder
    std::string text(state_->vocab.token(id));
    if (leading != LeadingSpace::kStays) {
      const bool spaced = text.starts_with(kSpaceSign);
      if (spaced) text.erase(0, kSpaceSign.size());
      if (!text.empty() || (spaced && leading == LeadingSpace::kOffOne)) leading = LeadingSpace::kStays;
    }
    return text;
  };
  const bool bytes = state_->decoders.size() == 1 && state_->decoders[0].kind == DecodeRule::kByteLevel;
  std::string joined;
  for (const int32_t id : ids) {
    if (!has(id) || (skip_special && is_special(id))) continue;
    if (bytes) joined += state_->bytes_of_id[static_cast<size_t>(id)];
    else tokens.push_back(decode_text(id));
  }
  return bytes ? replace_invalid_utf8(joined) : decode_tokens(state_->decoders, std::move(tokens));
}

int32_t Tokenizer::vocab_size() const { return state_->vocab_size; }
bool Tokenizer::has(int32_t id) const {
  return id >= 0 && id < state_->vocab_size && (state_->added_of_id[static_cast<size_t>(id)] >= 0 || state_->vocab.has(id));
}
std::string Tokenizer::token_bytes(int32_t id) const {
  return id >= 0 && id < state_->vocab_size ? state_->bytes_of_id[static_cast<size_t>(id)] : std::string();
}
std::string Tokenizer::token_text(int32_t id) const {
  if (!has(id)) return {};
  const int32_t added = state_->added_of_id[static_cast<size_t>(id)];
  return added >= 0 ? state_->added[static_cast<size_t>(added)].content : std::string(state_->vocab.token(id));
}
int32_t Tokenizer::id_of(std::string_view token) const {
  for (const AddedToken& t : state_->added) {
    if (t.content == token) return t.id;
  }
  return state_->vocab.id_of(token);
}
bool Tokenizer::is_special(int32_t id) const {
  if (id < 0 || id >= state_->vocab_size) return false;
  const int32_t added = state_->added_of_id[static_cast<size_t>(id)];
  return added >= 0 && state_->added[static_cast<size_t>(added)].special;
}
const std::vector<AddedToken>& Tokenizer::added_tokens() const { return state_->added; }
int32_t Tokenizer::bos_id() const { return state_->bos; }
int32_t Tokenizer::eos_id() const { return state_->eos; }
int32_t Tokenizer::pad_id() const { return state_->pad; }
int32_t Tokenizer::unknown_id() const { return state_->unknown; }

std::string Tokenizer::content_hash() const {
  const State& s = *state_;
  std::string text = s.normalizer_json.dump() + s.pre_tokenizer_json.dump() + s.post_processor_json.dump() + s.decoder_json.dump() + s.model_json.dump();
  const auto put = [&](std::string_view part) { text += std::to_string(part.size()) + ":", text += part; };
  const auto number = [&](int64_t n) { text += std::to_string(n) + ","; };
  for (int32_t id = 0; id < s.vocab.size(); ++id) {
    if (s.vocab.has(id)) number(id), put(s.vocab.token(id));
  }
  for (const AddedToken& t : s.added) {
    number(t.id), put(t.content);
    for (const bool b : {t.single_word, t.lstrip, t.rstrip, t.normalized, t.special}) number(b);
  }
  if (s.bpe) {
    for (const Merge& m : s.bpe->merges()) number(m.left), number(m.right);
  }
  for (const double score : s.unigram ? s.unigram->scores() : s.spm_bpe ? s.spm_bpe->scores() : std::vector<double>()) put(Json(score).dump());
  const XXH128_hash_t h = XXH3_128bits(text.data(), text.size());
  char out[33];
  std::snprintf(out, sizeof out, "%016llx%016llx", static_cast<unsigned long long>(h.high64), static_cast<unsigned long long>(h.low64));
  return out;
}

}  // namespace weft::text
