// tokenizer.json: reading, writing, and what follows from the rules.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/files.h"
#include "text/build.h"
#include "text/byte_level.h"
#include "text/rules_json.h"
#include "text/state.h"
#include "text/unicode.h"

namespace weft::text {
namespace {

using State = Tokenizer::State;

constexpr int64_t kMaxId = (1 << 26) - 1;  // 67 million ids

void read_vocab(const Node& node, Vocab& vocab) {
  if (!node.json().is_object()) node.fail(std::string("got ") + node.json().type_name() + ", want an object");
  for (const auto& [token, id] : node.json().items()) {
    const Node entry(id, node.where() + "['" + token.substr(0, 60) + "']");
    if (!vocab.add(token, static_cast<int32_t>(entry.as_integer(0, kMaxId)))) entry.fail("id " + id.dump() + " stands for another token too");
  }
  if (int64_t{vocab.size()} > 4 * int64_t{vocab.count()} + 65536) {
    node.fail("ids leave too many holes: got " + std::to_string(vocab.count()) + " tokens and a highest id of " + std::to_string(vocab.size() - 1));
  }
}

std::vector<Merge> read_merges(const Node& node, const Vocab& vocab, const std::string& prefix) {
  std::vector<Merge> out;
  const size_t count = node.size();
  out.reserve(count);
  std::string joined;
  for (size_t i = 0; i < count; ++i) {
    const Json& entry = node.json()[i];
    std::string left, right;
    if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
      left = entry[0].get_ref<const std::string&>();
      right = entry[1].get_ref<const std::string&>();
    } else if (entry.is_string()) {
      const std::string& text = entry.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) node.at(i).fail("want two tokens with one space between");
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else {
      node.at(i).fail("want \"left right\" or [left, right]");
    }
    joined = left + (right.size() >= prefix.size() ? right.substr(prefix.size()) : std::string());
    const Merge m{vocab.id_of(left), vocab.id_of(right), vocab.id_of(joined)};
    if (m.left < 0 || m.right < 0 || m.result < 0) {
      node.at(i).fail("'" + (m.left < 0 ? left : m.right < 0 ? right : joined).substr(0, 60) + "' is not in the vocabulary");
    }
    out.push_back(m);
  }
  return out;
}

void read_bpe(const Node& node, State& s) {
  node.only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
             "ignore_merges", "vocab", "merges"});
  if (node.has("dropout") && node.at("dropout").as_number() != 0) node.fail("dropout would make ids random: got " + node.json()["dropout"].dump() + ", want 0");
  read_vocab(node.at("vocab"), s.vocab);
  BpeOptions options;
  options.prefix = node.text("continuing_subword_prefix", "");
  options.suffix = node.text("end_of_word_suffix", "");
  options.fuse_unknown = node.flag("fuse_unk", false);
  options.byte_fallback = node.flag("byte_fallback", false);
  options.ignore_merges = node.flag("ignore_merges", false);
  if (node.has("unk_token")) {
    options.unknown = s.vocab.id_of(node.text("unk_token"));
    s.unknown = options.unknown;
  }
  std::vector<Merge> merges = read_merges(node.at("merges"), s.vocab, options.prefix);  // before the options move away
  Build::set_bpe(s, std::move(merges), std::move(options));
}

}  // namespace

void Build::set_bpe(State& s, std::vector<Merge> merges, BpeOptions options) {
  // Bytes stay bytes when nothing between the last ByteLevel rule and the model can see the difference.
  s.byte_level = !s.pre_tokenizers.empty() && s.pre_tokenizers.back().kind == PreTokenizer::kByteLevel && options.prefix.empty() &&
                 options.suffix.empty() && !options.byte_fallback && options.unknown < 0;
  if (s.byte_level) {
    std::string bytes;
    std::unordered_set<int32_t> apart;  // their text is no word of the model
    for (const AddedToken& t : s.added) apart.insert(t.id);
    for (int32_t id = 0; id < s.vocab.size(); ++id) {
      if (!s.vocab.has(id) || apart.contains(id)) continue;
      if (alphabet_to_bytes(s.vocab.token(id), bytes)) s.bytes_vocab.add(bytes, id);
    }
    s.pre_tokenizers.back().raw = true;
    options.raw_bytes = true;
  }
  s.bpe = std::make_unique<Bpe>(s.byte_level ? s.bytes_vocab : s.vocab, std::move(merges), options);
}

namespace {

void read_unigram(const Node& node, State& s) {
  node.only({"type", "unk_id", "vocab", "byte_fallback"});
  const Node list = node.at("vocab");
  std::vector<double> scores;
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& entry = list.json()[i];
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string()) list.at(i).fail("want [token, score]");
    scores.push_back(list.at(i).at(size_t{1}).as_number());
    s.vocab.add_over(entry[0].get_ref<const std::string&>(), static_cast<int32_t>(i));
  }
  UnigramOptions options;
  options.byte_fallback = node.flag("byte_fallback", false);
  if (node.has("unk_id")) options.unknown = static_cast<int32_t>(node.at("unk_id").as_integer(0, std::max<int64_t>(0, s.vocab.size() - 1)));
  if (scores.empty()) list.fail("is empty");
  s.unknown = options.unknown;
  s.byte_level = !s.pre_tokenizers.empty() && s.pre_tokenizers.back().kind == PreTokenizer::kByteLevel && !options.byte_fallback && options.unknown < 0;
  if (s.byte_level) {  // bytes stay bytes, as for BPE
    std::string bytes;
    for (int32_t id = 0; id < s.vocab.size(); ++id) {
      if (alphabet_to_bytes(s.vocab.token(id), bytes)) s.bytes_vocab.add_over(bytes, id);
    }
    scores.resize(static_cast<size_t>(s.vocab.size()));
    s.pre_tokenizers.back().raw = true;
    options.raw_bytes = true;
  }
  s.unigram = std::make_unique<Unigram>(s.byte_level ? s.bytes_vocab : s.vocab, std::move(scores), std::move(options));
}

void read_word_piece(const Node& node, State& s) {
  node.only({"type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"});
  read_vocab(node.at("vocab"), s.vocab);
  WordPieceOptions options;
  options.prefix = node.text("continuing_subword_prefix");
  options.longest_word = static_cast<size_t>(node.at("max_input_chars_per_word").as_integer(0, INT32_MAX));
  s.unknown = options.unknown = s.vocab.id_of(node.text("unk_token"));
  s.word_piece = std::make_unique<WordPiece>(s.vocab, std::move(options));
}

void read_word_level(const Node& node, State& s) {
  node.only({"type", "unk_token", "vocab"});
  read_vocab(node.at("vocab"), s.vocab);
  s.unknown = s.vocab.id_of(node.text("unk_token"));
  s.word_level = std::make_unique<WordLevel>(s.vocab, s.unknown);
}

void add_tokens(const Node& list, State& s) {
  std::vector<AddedToken> tokens;
  std::unordered_map<std::string, size_t> known;
  int32_t next = s.vocab.count();
  for (size_t i = 0; i < list.size(); ++i) {
    AddedToken t = read_added_token(list.at(i));
    if (t.content.empty()) continue;
    // Upstream gives ids by content and then in order; a file whose own ids say otherwise would be read wrongly by it.
    int32_t id = s.vocab.id_of(t.content);
    const auto before = known.find(t.content);
    if (before != known.end()) id = tokens[before->second].id;
    if (id < 0) id = next++;
    if (t.id != id) {
      list.at(i).fail("'" + t.content.substr(0, 60) + "': got id " + std::to_string(t.id) + ", want " + std::to_string(id) +
                      " (its place in the vocabulary, or the next free id)");
    }
    if (before != known.end()) {
      tokens[before->second] = std::move(t);
    } else {
      known.emplace(t.content, tokens.size());
      tokens.push_back(std::move(t));
    }
  }
  s.added = std::move(tokens);
}

std::string quote(std::string_view text) {
  return Json(std::string(text)).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

void State::finish() {
  std::sort(added.begin(), added.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  vocab_size = vocab.size();
  for (const AddedToken& t : added) vocab_size = std::max(vocab_size, t.id + 1);
  for (const PostRule& rule : post) {
    for (const int32_t id : rule.ids) {
      if (id >= vocab_size) throw InputError(where + ".post_processor: got token id " + std::to_string(id) + ", want below " + std::to_string(vocab_size));
    }
  }
  added_of_id.assign(static_cast<size_t>(vocab_size), -1);
  for (size_t i = 0; i < added.size(); ++i) {
    const AddedToken& t = added[i];
    added_of_id[static_cast<size_t>(t.id)] = static_cast<int32_t>(i);
    std::string text = t.content;
    if (t.normalized && !normalizers.empty()) {
      Pieces p;
      NormalizeScratch scratch;
      p.add_original(text, 0, -1, false);
      normalize(normalizers, p, scratch);
      text = p.bytes;
    }
    if (!text.empty() && text.size() <= AddedMatcher::kMaxLength) {
      (t.normalized ? normalized_matcher : plain_matcher).add(text, static_cast<int32_t>(i));
    }
    added_text.push_back(std::move(text));
  }
  const auto with = [&](DecodeRule::Kind kind) {
    return std::any_of(decoders.begin(), decoders.end(), [&](const DecodeRule& r) { return r.kind == kind; });
  };
  const bool bytes = with(DecodeRule::kByteLevel), fallback = with(DecodeRule::kByteFallback);
  bytes_of_id.resize(static_cast<size_t>(vocab_size));
  for (int32_t id = 0; id < vocab_size; ++id) {
    std::string& out = bytes_of_id[static_cast<size_t>(id)];
    const int32_t at = added_of_id[static_cast<size_t>(id)];
    const std::string_view token = at >= 0 ? std::string_view(added_text[static_cast<size_t>(at)]) : vocab.token(id);
    if (bytes) {
      out = byte_level_bytes(token);
    } else if (const int byte = fallback ? fallback_byte(token) : -1; byte >= 0) {
      out = std::string(1, static_cast<char>(byte));
    } else {
      out = token;
      for (const DecodeRule& rule : decoders) {  // the mark of a space, wherever the word stands
        const std::string mark = rule.kind == DecodeRule::kMetaspace ? rule.content : rule.kind == DecodeRule::kReplace && !rule.regex ? rule.text : "";
        if (mark.empty()) continue;
        for (size_t hit = 0; (hit = out.find(mark, hit)) != std::string::npos; ++hit) out.replace(hit, mark.size(), " ");
      }
    }
  }
  const auto role = [&](int32_t& id, std::initializer_list<const char*> names) {
    for (const char* name : names) {
      for (const AddedToken& t : added) {
        if (id < 0 && t.special && t.content == name) id = t.id;
      }
    }
  };
  role(bos, {"<s>", "<|begin_of_text|>", "<|startoftext|>", "<bos>", "<|begin_of_sentence|>", "<BOS_TOKEN>", "[CLS]"});
  role(eos, {"</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "<|end_of_sentence|>", "<|im_end|>", "[SEP]"});
  role(pad, {"<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>"});
  role(unknown, {"<unk>", "[UNK]"});
  size_t patterns = 0;
  bool plain = byte_level && normalized_matcher.empty();
  for (const PreTokenizer& rule : pre_tokenizers) {
    patterns += rule.regex != nullptr;
    plain &= (rule.kind == PreTokenizer::kSplit && rule.behavior == SplitBehavior::kIsolated) ||
             (rule.kind == PreTokenizer::kByteLevel && !rule.add_prefix_space);
  }
  one_regex = plain && patterns == 1;
  for (const PreTokenizer& rule : pre_tokenizers) {
    track_origin |= rule.kind == PreTokenizer::kMetaspace && rule.prepend == PreTokenizer::kFirst &&
                    (!normalizers.empty() || &rule != &pre_tokenizers.front());
  }
}

std::shared_ptr<State> Build::start(const Json& sections, const std::string& where) {
  auto state = std::make_shared<State>();
  State& s = *state;
  s.where = where;
  const auto section = [&](const char* key) { return sections.contains(key) ? sections[key] : Json(); };
  s.normalizer_json = section("normalizer");
  s.pre_tokenizer_json = section("pre_tokenizer");
  s.post_processor_json = section("post_processor");
  s.decoder_json = section("decoder");
  s.normalizers = read_normalizers(Node(s.normalizer_json, where + ".normalizer"));
  s.pre_tokenizers = read_pre_tokenizers(Node(s.pre_tokenizer_json, where + ".pre_tokenizer"));
  s.decoders = read_decoders(Node(s.decoder_json, where + ".decoder"));
  s.post = read_post_rules(Node(s.post_processor_json, where + ".post_processor"));
  return state;
}

Tokenizer Build::finish(std::shared_ptr<State> state) {
  state->finish();
  return Tokenizer(std::move(state));
}

Tokenizer Tokenizer::from_json(std::string_view text, const std::string& where) {
  Json root = read_json(text, where);
  const Node node(root, where);
  node.only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"});
  if (node.text("version", "1.0") != "1.0") node.fail("unknown version '" + node.text("version") + "', want 1.0");
  auto state = Build::start(root, where);
  State& s = *state;
  const Node model = node.at("model");
  // Old files do not say; then the fields tell.
  const std::string type = model.text("type", model.has("merges") ? "BPE" : model.has("max_input_chars_per_word") ? "WordPiece" : model.has("unk_id") ? "Unigram" : "WordLevel");
  if (type == "BPE") read_bpe(model, s);
  else if (type == "Unigram") read_unigram(model, s);
  else if (type == "WordPiece") read_word_piece(model, s);
  else if (type == "WordLevel") read_word_level(model, s);
  else model.fail("unknown model type '" + type + "'");
  for (const auto& [key, value] : model.json().items()) {
    if (key != "vocab" && key != "merges") s.model_json[key] = value;
  }
  s.model_json["type"] = type;
  if (node.has("added_tokens")) add_tokens(node.at("added_tokens"), s);
  return Build::finish(std::move(state));
}

std::string Tokenizer::to_json() const {
  const State& s = *state_;
  if (s.sentence_piece) {
    throw UnsupportedError(s.where + ": to tokenizer.json: SentencePiece's own normalizer and scores have no exact form there\n  try: its tokenizer.model");
  }
  const auto flag = [](bool b) { return b ? "true" : "false"; };
  std::string out = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  for (size_t i = 0; i < s.added.size(); ++i) {
    const AddedToken& t = s.added[i];
    out += std::string(i > 0 ? "," : "") + "\n    {\"id\": " + std::to_string(t.id) + ", \"content\": " + quote(t.content) +
           ", \"single_word\": " + flag(t.single_word) + ", \"lstrip\": " + flag(t.lstrip) + ", \"rstrip\": " + flag(t.rstrip) +
           ", \"normalized\": " + flag(t.normalized) + ", \"special\": " + flag(t.special) + "}";
  }
  out += "\n  ],\n  \"normalizer\": " + s.normalizer_json.dump() + ",\n  \"pre_tokenizer\": " + s.pre_tokenizer_json.dump() +
         ",\n  \"post_processor\": " + s.post_processor_json.dump() + ",\n  \"decoder\": " + s.decoder_json.dump() + ",\n  \"model\": ";
  std::string head = s.model_json.dump();
  head.pop_back();
  out += head + (s.model_json.empty() ? "" : ",") + "\n    \"vocab\": " + (s.unigram ? "[" : "{");
  bool first = true;
  for (int32_t id = 0; id < s.vocab.size(); ++id) {
    if (!s.vocab.has(id)) continue;
    out += first ? "\n      " : ",\n      ";
    first = false;
    const std::string token = quote(s.vocab.token(id));
    out += s.unigram ? "[" + token + ", " + Json(s.unigram->scores()[static_cast<size_t>(id)]).dump() + "]" : token + ": " + std::to_string(id);
  }
  out += s.unigram ? "\n    ]" : "\n    }";
  if (s.bpe) {
    out += ",\n    \"merges\": [";
    first = true;
    for (const Merge& m : s.bpe->merges()) {
      out += std::string(first ? "" : ",") + "\n      [" + quote(s.vocab.token(m.left)) + ", " + quote(s.vocab.token(m.right)) + "]";
      first = false;
    }
    out += "\n    ]";
  }
  out += "\n  }\n}\n";
  return out;
}

Tokenizer::File Tokenizer::to_file() const {
  if (state_->sentence_piece) return {"tokenizer.model", state_->sentence_piece_file};
  return {"tokenizer.json", to_json()};
}

void Tokenizer::save(const std::string& path) const { write_file_atomic(path, to_json()); }

}  // namespace weft::text
