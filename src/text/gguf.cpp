// Vocabularies in GGUF files (versions 2 and 3): the `tokenizer.ggml.*` keys. Only for import.
#include <algorithm>
#include <map>

#include "text/build.h"
#include "text/byte_reader.h"
#include "text/unicode.h"

namespace weft::text {
namespace {

struct Value {
  uint32_t type = 0;
  double number = 0;
  std::string_view text;
  std::vector<std::string_view> texts;
  std::vector<double> numbers;
};
constexpr uint32_t kString = 8, kArray = 9;

double read_number(ByteReader& r, uint32_t type) {
  switch (type) {
    case 0: return r.number<uint8_t>();
    case 1: return r.number<int8_t>();
    case 2: return r.number<uint16_t>();
    case 3: return r.number<int16_t>();
    case 4: return r.number<uint32_t>();
    case 5: return r.number<int32_t>();
    case 6: return r.number<float>();
    case 7: return r.number<uint8_t>();
    case 10: return static_cast<double>(r.number<uint64_t>());
    case 11: return static_cast<double>(r.number<int64_t>());
    case 12: return r.number<double>();
    default: r.fail("value type " + std::to_string(type) + " is not known");
  }
}

std::map<std::string, Value> read_keys(std::string_view content, const std::string& path) {
  ByteReader r(content, path);
  if (r.bytes(4) != "GGUF") throw InputError(path + ": does not start with GGUF");
  const uint32_t version = r.number<uint32_t>();
  if (version != 2 && version != 3) r.fail("version: got " + std::to_string(version) + ", want 2 or 3");
  r.number<uint64_t>();  // tensors
  const uint64_t count = r.number<uint64_t>();
  if (count > 100000) r.fail("keys: got " + std::to_string(count) + ", want at most 100000");
  std::map<std::string, Value> out;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t key_size = r.number<uint64_t>();
    if (key_size > 65535) r.fail("key is longer than 65535 bytes");
    const std::string key(r.bytes(key_size));
    Value v;
    v.type = r.number<uint32_t>();
    if (v.type == kString) {
      v.text = r.bytes(r.number<uint64_t>());
    } else if (v.type == kArray) {
      const uint32_t inner = r.number<uint32_t>();
      const uint64_t n = r.number<uint64_t>();
      if (n > r.left()) r.fail("array of " + std::to_string(n) + " is longer than the file");
      if (inner == kArray) r.fail("array of arrays");
      for (uint64_t k = 0; k < n; ++k) {
        if (inner == kString) v.texts.push_back(r.bytes(r.number<uint64_t>()));
        else v.numbers.push_back(read_number(r, inner));
      }
    } else {
      v.number = read_number(r, v.type);
    }
    if (!out.emplace(key, std::move(v)).second) r.fail("key '" + key.substr(0, 100) + "' stands twice");
  }
  return out;
}

class Keys {
 public:
  Keys(std::map<std::string, Value> all, const std::string& path) : all_(std::move(all)), path_(path) {}
  const Value* find(const std::string& name) const {
    const auto it = all_.find("tokenizer.ggml." + name);
    return it == all_.end() ? nullptr : &it->second;
  }
  const Value& at(const std::string& name) const {
    const Value* v = find(name);
    if (v == nullptr) throw InputError(path_ + ": has no tokenizer.ggml." + name);
    return *v;
  }
  bool flag(const std::string& name, bool fallback) const { return find(name) ? find(name)->number != 0 : fallback; }
  int32_t id(const std::string& name, size_t size) const {
    const Value* v = find(name);
    if (v == nullptr) return -1;
    if (!(v->number >= 0 && v->number < static_cast<double>(size))) throw InputError(path_ + ": tokenizer.ggml." + name + " is not an id");
    return static_cast<int32_t>(v->number);
  }
  const std::string& path() const { return path_; }

 private:
  std::map<std::string, Value> all_;
  std::string path_;
};

Json added_tokens(const std::vector<std::string>& tokens, const std::vector<uint8_t>& type) {
  Json out = Json::array();
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool special = type[i] == SpmPieces::kControl || type[i] == SpmPieces::kUnknown;
    if (!special && type[i] != SpmPieces::kUserDefined) continue;
    if (tokens[i].size() > AddedMatcher::kMaxLength) continue;
    out.push_back({{"id", i}, {"content", tokens[i]}, {"special", special}, {"normalized", false}});
  }
  return out;
}

Json vocab_object(const std::vector<std::string>& tokens, const std::string& path) {
  Json out = Json::object();
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!out.emplace(tokens[i], i).second) throw InputError(path + ": token " + std::to_string(i) + ": '" + tokens[i].substr(0, 60) + "' stands twice");
  }
  return out;
}

Json merges_array(const Keys& keys) {
  Json out = Json::array();
  for (const std::string_view m : keys.at("merges").texts) {
    if (valid_utf8_prefix(m) != m.size()) throw InputError(keys.path() + ": merge " + std::to_string(out.size()) + " is not UTF-8");
    const size_t space = m.find(' ', 1);  // a token may start with a space, none has one inside
    if (space == std::string_view::npos) throw InputError(keys.path() + ": merge '" + std::string(m.substr(0, 60)) + "' has no space");
    out.push_back({std::string(m.substr(0, space)), std::string(m.substr(space + 1))});
  }
  return out;
}

}  // namespace

Tokenizer read_gguf(std::string_view content, const std::string& path) {
  const Keys keys(read_keys(content, path), path);
  const std::string model(keys.at("model").text);
  std::vector<std::string> tokens;
  for (const std::string_view t : keys.at("tokens").texts) {
    if (valid_utf8_prefix(t) != t.size()) throw InputError(path + ": token " + std::to_string(tokens.size()) + " is not UTF-8");
    tokens.emplace_back(t);
  }
  std::vector<uint8_t> type(tokens.size(), SpmPieces::kNormal);
  if (const Value* v = keys.find("token_type")) {
    if (v->numbers.size() != tokens.size()) throw InputError(path + ": token_type: got " + std::to_string(v->numbers.size()) + " entries, want " + std::to_string(tokens.size()));
    for (size_t i = 0; i < tokens.size(); ++i) type[i] = v->numbers[i] >= 1 && v->numbers[i] <= 6 ? static_cast<uint8_t>(v->numbers[i]) : uint8_t{SpmPieces::kNormal};
  }
  if (model == "llama" || model == "t5") {
    SpmPieces p;
    p.text = tokens;
    p.type = type;
    const Value& scores = keys.at("scores");
    if (scores.numbers.size() != tokens.size()) throw InputError(path + ": scores: got " + std::to_string(scores.numbers.size()) + " entries, want " + std::to_string(tokens.size()));
    p.score.assign(scores.numbers.begin(), scores.numbers.end());
    p.unigram = model == "t5";
    if (const Value* map = keys.find("precompiled_charsmap")) {
      for (const double b : map->numbers) p.charsmap += static_cast<char>(static_cast<int>(b));
    }
    p.add_dummy_prefix = keys.flag("add_space_prefix", true);
    p.remove_extra_spaces = keys.flag("remove_extra_whitespaces", false);
    for (const uint8_t t : p.type) p.byte_fallback |= t == SpmPieces::kByte;
    p.bos = keys.id("bos_token_id", tokens.size()), p.eos = keys.id("eos_token_id", tokens.size()), p.pad = keys.id("padding_token_id", tokens.size());
    // One piece is the unknown one: the file's choice, else its first of that type. Fillers may have the type too.
    int32_t unknown = keys.id("unknown_token_id", tokens.size());
    for (size_t i = 0; i < p.type.size() && unknown < 0; ++i) {
      if (p.type[i] == SpmPieces::kUnknown) unknown = static_cast<int32_t>(i);
    }
    for (uint8_t& t : p.type) t = t == SpmPieces::kUnknown ? uint8_t{SpmPieces::kUnused} : t;
    if (!p.type.empty()) p.type[static_cast<size_t>(std::max(unknown, 0))] = SpmPieces::kUnknown;
    return make_sentence_piece(std::move(p), path);
  }
  if (model == "bert") {  // words start with U+2581 there and go on bare; in WordPiece they start bare and go on with ##
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (type[i] != SpmPieces::kNormal) continue;
      if (tokens[i].starts_with("\u2581")) tokens[i].erase(0, 3);
      else if (tokens[i].size() < 3 || !tokens[i].starts_with('[') || !tokens[i].ends_with(']')) tokens[i].insert(0, "##");
    }
    const auto special = [&](const char* key) {
      const int32_t id = keys.id(key, tokens.size());
      if (id < 0) throw InputError(path + ": has no tokenizer.ggml." + key);
      return id;
    };
    const int32_t cls = keys.find("cls_token_id") ? special("cls_token_id") : special("bos_token_id"), sep = special("seperator_token_id"), unknown = special("unknown_token_id");
    const auto text = [&](int32_t id) { return tokens[static_cast<size_t>(id)]; };
    const Json root = {{"added_tokens", added_tokens(tokens, type)},
                       {"normalizer", {{"type", "BertNormalizer"}, {"clean_text", true}, {"handle_chinese_chars", true}, {"strip_accents", nullptr}, {"lowercase", true}}},
                       {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
                       {"post_processor", {{"type", "BertProcessing"}, {"sep", {text(sep), sep}}, {"cls", {text(cls), cls}}}},
                       {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}},
                       {"model", {{"type", "WordPiece"}, {"unk_token", text(unknown)}, {"continuing_subword_prefix", "##"}, {"max_input_chars_per_word", 100}, {"vocab", vocab_object(tokens, path)}}}};
    return Tokenizer::from_json(root.dump(), path);
  }
  if (model == "gemma4") {  // BPE over characters with spaces as U+2581
    const Json decoder = {{"type", "Sequence"}, {"decoders", {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}}, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}};
    const int32_t unknown = keys.id("unknown_token_id", tokens.size());
    const Json root = {{"added_tokens", added_tokens(tokens, type)},
                       {"normalizer", {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}},
                       {"pre_tokenizer", {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}, {"invert", false}}},
                       {"decoder", decoder},
                       {"model", {{"type", "BPE"}, {"unk_token", unknown < 0 ? Json() : Json(tokens[static_cast<size_t>(unknown)])}, {"fuse_unk", true}, {"byte_fallback", true}, {"vocab", vocab_object(tokens, path)}, {"merges", merges_array(keys)}}}};
    return Tokenizer::from_json(root.dump(), path);
  }
  if (model != "gpt2") throw InputError(path + ": tokenizer.ggml.model: got '" + model + "', want gpt2, llama, t5, bert or gemma4");
  const std::string pre = keys.find("pre") ? std::string(keys.at("pre").text) : "gpt-2";
  const Json pre_tokenizer = pre_tokenizer_named(pre);
  if (pre_tokenizer.is_null()) throw InputError(path + ": tokenizer.ggml.pre: '" + pre + "' is not known\n  try: the model's tokenizer.json");
  const bool nfc = pre == "qwen2" || pre == "command-r" || pre == "mpt" || pre == "gpt-neox" || pre == "stablelm2";
  const Json root = {{"added_tokens", added_tokens(tokens, type)},
                     {"normalizer", nfc ? Json{{"type", "NFC"}} : Json()},
                     {"pre_tokenizer", pre_tokenizer},
                     {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
                     {"model", {{"type", "BPE"}, {"ignore_merges", pre == "llama-bpe" || pre == "llama3" || pre == "tekken"}, {"vocab", vocab_object(tokens, path)}, {"merges", merges_array(keys)}}}};
  return Tokenizer::from_json(root.dump(), path);
}

}  // namespace weft::text
