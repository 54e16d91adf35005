// SentencePiece's tokenizer.model: a protobuf ModelProto (sentencepiece_model.proto), read without a protobuf library.
#include <cmath>

#include "text/build.h"
#include "text/byte_reader.h"
#include "text/unicode.h"

namespace weft::text {
namespace {

// One field of a message: number, wire type, and its value.
struct Field {
  uint32_t number = 0;
  uint64_t value = 0;      // varint and fixed
  std::string_view bytes;  // length-delimited
};

bool next_field(ByteReader& r, Field& f) {
  if (!r.more()) return false;
  const uint64_t tag = r.varint();
  if (tag >> 3 == 0 || tag >> 3 > 0x1FFFFFFF) r.fail("wrong field number");
  f = {static_cast<uint32_t>(tag >> 3), 0, {}};
  switch (tag & 7) {
    case 0: f.value = r.varint(); return true;
    case 1: f.value = r.number<uint64_t>(); return true;
    case 2: f.bytes = r.bytes(r.varint()); return true;
    case 5: f.value = r.number<uint32_t>(); return true;
    default: r.fail("wire type " + std::to_string(tag & 7) + " is not supported");
  }
}

void read_piece(std::string_view message, const std::string& where, SpmPieces& p) {
  ByteReader r(message, where);
  std::string text;
  float score = 0;
  uint64_t type = SpmPieces::kNormal;
  for (Field f; next_field(r, f);) {
    if (f.number == 1) text = f.bytes;
    if (f.number == 2) {
      const uint32_t bits = static_cast<uint32_t>(f.value);
      std::memcpy(&score, &bits, 4);
    }
    if (f.number == 3) type = f.value;
  }
  if (type < 1 || type > 6) throw InputError(where + ": type: got " + std::to_string(type) + ", want 1 to 6");
  if (!std::isfinite(score)) throw InputError(where + ": score is not finite");
  if (text.empty() || valid_utf8_prefix(text) != text.size()) throw InputError(where + ": piece is empty or not UTF-8");
  p.text.push_back(std::move(text));
  p.score.push_back(score);
  p.type.push_back(static_cast<uint8_t>(type));
}

// The writing side of the same fields.
class Message {
 public:
  Message& number(uint32_t field, uint64_t value) { return varint(field << 3), varint(value), *this; }
  Message& id(uint32_t field, int32_t value) { return number(field, static_cast<uint64_t>(static_cast<int64_t>(value))); }  // a negative int32 has ten bytes
  Message& real(uint32_t field, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    varint(field << 3 | 5);
    for (int i = 0; i < 4; ++i) bytes_ += static_cast<char>(bits >> (8 * i));
    return *this;
  }
  Message& bytes(uint32_t field, std::string_view value) { return varint(field << 3 | 2), varint(value.size()), bytes_ += value, *this; }
  const std::string& text() const { return bytes_; }

 private:
  void varint(uint64_t v) {
    for (; v >= 0x80; v >>= 7) bytes_ += static_cast<char>(v | 0x80);
    bytes_ += static_cast<char>(v);
  }
  std::string bytes_;
};

std::string written(const SpmPieces& p) {
  Message model, trainer, rules;
  for (size_t i = 0; i < p.text.size(); ++i) model.bytes(1, Message().bytes(1, p.text[i]).real(2, p.score[i]).number(3, p.type[i]).text());
  int32_t unknown = 0;
  for (size_t i = 0; i < p.type.size(); ++i) unknown = p.type[i] == SpmPieces::kUnknown ? static_cast<int32_t>(i) : unknown;
  trainer.number(3, p.unigram ? 1 : 2).number(24, p.space_as_suffix).number(35, p.byte_fallback).id(40, unknown).id(41, p.bos).id(42, p.eos).id(43, p.pad).bytes(44, p.unknown_surface);
  rules.bytes(2, p.charsmap).number(3, p.add_dummy_prefix).number(4, p.remove_extra_spaces).number(5, p.escape_spaces);
  return model.bytes(2, trainer.text()).bytes(3, rules.text()).text();
}

}  // namespace

Tokenizer read_sentence_piece(std::string_view content, const std::string& path) {
  SpmPieces p;
  uint64_t model_type = 1;
  ByteReader model(content, path);
  for (Field f; next_field(model, f);) {
    if (f.number == 1) {
      read_piece(f.bytes, path + ": piece " + std::to_string(p.text.size()), p);
    } else if (f.number == 2) {  // TrainerSpec
      ByteReader r(f.bytes, path);
      for (Field t; next_field(r, t);) {
        if (t.number == 3) model_type = t.value;
        if (t.number == 24) p.space_as_suffix = t.value != 0;
        if (t.number == 35) p.byte_fallback = t.value != 0;
        if (t.number == 41) p.bos = static_cast<int32_t>(t.value);
        if (t.number == 42) p.eos = static_cast<int32_t>(t.value);
        if (t.number == 43) p.pad = static_cast<int32_t>(t.value);
        if (t.number == 44 && valid_utf8_prefix(t.bytes) == t.bytes.size()) p.unknown_surface = t.bytes;
      }
    } else if (f.number == 3) {  // NormalizerSpec
      ByteReader r(f.bytes, path);
      for (Field n; next_field(r, n);) {
        if (n.number == 2) p.charsmap = n.bytes;
        if (n.number == 3) p.add_dummy_prefix = n.value != 0;
        if (n.number == 4) p.remove_extra_spaces = n.value != 0;
        if (n.number == 5) p.escape_spaces = n.value != 0;
      }
    }
  }
  if (model_type != 1 && model_type != 2) {
    throw InputError(path + ": model type: got " + std::to_string(model_type) + ", want 1 (unigram) or 2 (bpe)");
  }
  p.unigram = model_type == 1;
  return make_sentence_piece(std::move(p), path, content);
}

Tokenizer make_sentence_piece(SpmPieces p, const std::string& path, std::string_view file) {
  if (p.text.empty()) throw InputError(path + ": has no pieces");
  const size_t n = p.text.size();
  const Json sections = {{"decoder",
                          {{"type", "Sequence"},
                           {"decoders",
                            {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
                             {{"type", "ByteFallback"}},
                             {{"type", "Fuse"}}}}}}};
  auto state = Build::start(sections, path);
  Tokenizer::State& s = *state;
  s.sentence_piece = true;
  s.sentence_piece_file = file.empty() ? written(p) : std::string(file);
  s.unknown_surface = p.unknown_surface;
  s.leading_space = p.remove_extra_spaces ? LeadingSpace::kOffAll : p.add_dummy_prefix ? LeadingSpace::kOffOne : LeadingSpace::kStays;
  Normalizer rule{};
  rule.kind = Normalizer::kSentencePiece;
  if (!p.charsmap.empty()) rule.map = std::make_shared<CharMap>(p.charsmap, path);
  rule.add_dummy_prefix = p.add_dummy_prefix;
  rule.remove_extra_spaces = p.remove_extra_spaces;
  rule.escape_spaces = p.escape_spaces;
  rule.space_as_suffix = p.space_as_suffix;
  auto symbols = std::make_shared<AddedMatcher>();
  std::vector<uint8_t> usable(n), user_defined(n);
  int32_t unknown = -1;
  for (size_t i = 0; i < n; ++i) {
    const int32_t id = static_cast<int32_t>(i);
    if (!s.vocab.add(p.text[i], id)) throw InputError(path + ": piece " + std::to_string(i) + ": '" + p.text[i].substr(0, 60) + "' stands twice");
    usable[i] = p.type[i] == SpmPieces::kNormal || p.type[i] == SpmPieces::kUserDefined;
    user_defined[i] = p.type[i] == SpmPieces::kUserDefined;
    if (user_defined[i]) {
      if (p.text[i].size() > AddedMatcher::kMaxLength) throw InputError(path + ": piece " + std::to_string(i) + " is longer than 8192 bytes");
      symbols->add(p.text[i], id);
    }
    if (p.type[i] == SpmPieces::kUnknown) unknown = id;
    if (p.type[i] == SpmPieces::kControl) {
      AddedToken t;
      t.content = p.text[i];
      t.id = id;
      t.special = true;
      s.added.push_back(std::move(t));
    }
  }
  if (unknown < 0) throw InputError(path + ": has no unknown piece");
  if (!symbols->empty()) rule.user_symbols = symbols;
  s.normalizers.push_back(rule);
  s.unknown = unknown;
  s.model_json = {{"type", p.unigram ? "SentencePieceUnigram" : "SentencePieceBPE"}, {"byte_fallback", p.byte_fallback},
                  {"add_dummy_prefix", p.add_dummy_prefix}, {"remove_extra_whitespaces", p.remove_extra_spaces}};
  std::vector<double> scores(p.score.begin(), p.score.end());
  if (p.unigram) {
    UnigramOptions o;
    o.unknown = unknown;
    o.byte_fallback = p.byte_fallback;
    o.single_precision = true;
    o.unusable.resize(n);
    for (size_t i = 0; i < n; ++i) o.unusable[i] = !usable[i];
    o.user_defined = user_defined;
    s.unigram = std::make_unique<Unigram>(s.vocab, std::move(scores), std::move(o));
  } else {
    s.spm_bpe = std::make_unique<SpmBpe>(s.vocab, std::move(scores), SpmBpeOptions{unknown, p.byte_fallback, usable, rule.user_symbols});
  }
  const auto role = [&](int32_t id) { return id >= 0 && s.vocab.has(id) ? id : -1; };
  s.bos = role(p.bos), s.eos = role(p.eos), s.pad = role(p.pad);
  return Build::finish(std::move(state));
}

}  // namespace weft::text
