#include "text/rules_json.h"

#include "text/build.h"
#include "text/byte_level.h"
#include "text/unicode.h"

namespace weft::text {

uint32_t read_character(const Node& node, const char* key, uint32_t fallback) {
  if (!node.has(key)) return fallback;
  const std::string text = node.text(key);
  const std::vector<uint32_t> codes = code_points(text);
  if (codes.size() != 1) node.at(key).fail("got " + std::to_string(codes.size()) + " characters, want one");
  return codes[0];
}

std::string read_pattern(const Node& node, bool& literal) {
  literal = node.has("String");
  return node.text(literal ? "String" : "Regex");
}

std::string escape_regex(std::string_view literal) {
  std::string out;
  for (const char c : literal) {
    if (static_cast<uint8_t>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c)) && c != '_') out += '\\';
    out += c;
  }
  return out;
}

namespace {

SplitBehavior read_behavior(const Node& node, const char* fallback) {
  const std::string name = node.text("behavior", fallback);
  constexpr const char* kNames[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
  for (int i = 0; i < 5; ++i) {
    if (name == kNames[i]) return static_cast<SplitBehavior>(i);
  }
  node.fail("unknown behavior '" + name + "'");
}

void add_normalizer(const Node& node, int depth, std::vector<Normalizer>& out) {
  if (depth > 16) node.fail("Sequence nests deeper than 16");
  const std::string type = node.text("type");
  if (type == "Sequence") {
    const Node list = node.at("normalizers");
    for (size_t i = 0; i < list.size(); ++i) add_normalizer(list.at(i), depth + 1, out);
    return;
  }
  Normalizer rule{};
  constexpr const char* kForms[] = {"NFC", "NFD", "NFKC", "NFKD"};
  for (int i = 0; i < 4; ++i) {
    if (type != kForms[i]) continue;
    rule.kind = Normalizer::kForm;
    rule.form = static_cast<Form>(i);
    return void(out.push_back(std::move(rule)));
  }
  if (type == "BertNormalizer" || type == "Bert") {
    rule.kind = Normalizer::kBert;
    rule.clean_text = node.flag("clean_text", true);
    rule.chinese = node.flag("handle_chinese_chars", true);
    rule.lowercase = node.flag("lowercase", true);
    rule.strip_accents = node.flag("strip_accents", rule.lowercase);
  } else if (type == "Strip" || type == "StripNormalizer") {
    rule.kind = Normalizer::kStrip;
    rule.left = node.flag("strip_left", true);
    rule.right = node.flag("strip_right", true);
  } else if (type == "StripAccents") {
    rule.kind = Normalizer::kStripAccents;
  } else if (type == "Lowercase") {
    rule.kind = Normalizer::kLowercase;
  } else if (type == "Nmt") {
    rule.kind = Normalizer::kNmt;
  } else if (type == "Precompiled") {
    rule.kind = Normalizer::kPrecompiled;
    rule.map = std::make_shared<CharMap>(decode_base64(node.text("precompiled_charsmap"), node.at("precompiled_charsmap").where()), node.where());
  } else if (type == "Replace") {
    rule.kind = Normalizer::kReplace;
    bool literal = false;
    rule.text = read_pattern(node.at("pattern"), literal);
    if (!literal) rule.regex = std::make_shared<Regex>(rule.text, node.at("pattern").where());
    rule.content = node.text("content");
  } else if (type == "Prepend") {
    rule.kind = Normalizer::kPrepend;
    rule.text = node.text("prepend");
  } else if (type == "ByteLevel") {
    rule.kind = Normalizer::kByteLevel;
  } else {
    node.fail("unknown normalizer type '" + type + "'");
  }
  out.push_back(std::move(rule));
}

void add_pre_tokenizer(const Node& node, int depth, std::vector<PreTokenizer>& out) {
  if (depth > 16) node.fail("Sequence nests deeper than 16");
  const std::string type = node.text("type");
  if (type == "Sequence") {
    const Node list = node.at("pretokenizers");
    for (size_t i = 0; i < list.size(); ++i) add_pre_tokenizer(list.at(i), depth + 1, out);
    return;
  }
  PreTokenizer rule{};
  if (type == "Split") {
    rule.kind = PreTokenizer::kSplit;
    rule.pattern = read_pattern(node.at("pattern"), rule.pattern_is_literal);
    rule.regex = std::make_shared<Regex>(rule.pattern_is_literal ? escape_regex(rule.pattern) : rule.pattern, node.at("pattern").where());
    rule.behavior = read_behavior(node, "");
    rule.invert = node.flag("invert", false);
  } else if (type == "ByteLevel") {
    rule.kind = PreTokenizer::kByteLevel;
    rule.add_prefix_space = node.flag("add_prefix_space", true);
    rule.trim_offsets = node.flag("trim_offsets", true);
    rule.use_regex = node.flag("use_regex", true);
    if (rule.use_regex) rule.regex = std::make_shared<Regex>(kByteLevelPattern, node.where());
  } else if (type == "Digits") {
    rule.kind = PreTokenizer::kDigits;
    rule.individual = node.flag("individual_digits", false);
    rule.behavior = rule.individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
  } else if (type == "Punctuation") {
    rule.kind = PreTokenizer::kPunctuation;
    rule.behavior = read_behavior(node, "Isolated");
  } else if (type == "Whitespace") {
    rule.kind = PreTokenizer::kWhitespace;
    rule.behavior = SplitBehavior::kRemoved;
    rule.invert = true;
  } else if (type == "WhitespaceSplit") {
    rule.kind = PreTokenizer::kWhitespaceSplit;
    rule.behavior = SplitBehavior::kRemoved;
  } else if (type == "Delimiter" || type == "CharDelimiterSplit") {
    rule.kind = PreTokenizer::kDelimiter;
    rule.character = read_character(node, "delimiter", ' ');
    rule.behavior = SplitBehavior::kRemoved;
  } else if (type == "Metaspace") {
    rule.kind = PreTokenizer::kMetaspace;
    rule.character = read_character(node, "replacement", 0x2581);
    rule.behavior = SplitBehavior::kMergedWithNext;
    const std::string scheme = node.text("prepend_scheme", "always");
    if (scheme != "always" && scheme != "first" && scheme != "never") node.fail("unknown prepend_scheme '" + scheme + "'");
    rule.prepend = scheme == "always" ? PreTokenizer::kAlways : scheme == "first" ? PreTokenizer::kFirst : PreTokenizer::kNever;
    if (!node.flag("add_prefix_space", true)) {
      if (node.has("prepend_scheme") && scheme != "never") node.fail("add_prefix_space false and prepend_scheme " + scheme + " contradict");
      rule.prepend = PreTokenizer::kNever;
    }
    rule.split = node.flag("split", true);
  } else if (type == "BertPreTokenizer") {
    rule.kind = PreTokenizer::kBert;
    rule.behavior = SplitBehavior::kRemoved;
  } else if (type == "UnicodeScripts") {
    rule.kind = PreTokenizer::kScripts;
  } else if (type == "FixedLength") {
    rule.kind = PreTokenizer::kFixedLength;
    rule.length = node.has("length") ? static_cast<size_t>(node.at("length").as_integer(1, INT32_MAX)) : 5;
  } else {
    node.fail("unknown pre-tokenizer type '" + type + "'");
  }
  out.push_back(std::move(rule));
}

void add_decoder(const Node& node, int depth, std::vector<DecodeRule>& out) {
  if (depth > 16) node.fail("Sequence nests deeper than 16");
  const std::string type = node.text("type");
  if (type == "Sequence") {
    const Node list = node.at("decoders");
    for (size_t i = 0; i < list.size(); ++i) add_decoder(list.at(i), depth + 1, out);
    return;
  }
  DecodeRule rule{};
  if (type == "ByteLevel") {
    rule.kind = DecodeRule::kByteLevel;
  } else if (type == "Metaspace") {
    rule.kind = DecodeRule::kMetaspace;
    append_utf8(rule.content, read_character(node, "replacement", 0x2581));
    rule.never_prepended = node.text("prepend_scheme", node.flag("add_prefix_space", true) ? "always" : "never") == "never";
  } else if (type == "WordPiece") {
    rule.kind = DecodeRule::kWordPiece;
    rule.text = node.text("prefix");
    rule.cleanup = node.flag("cleanup", true);
  } else if (type == "BPEDecoder") {
    rule.kind = DecodeRule::kBpe;
    rule.text = node.text("suffix");
  } else if (type == "ByteFallback") {
    rule.kind = DecodeRule::kByteFallback;
  } else if (type == "Fuse") {
    rule.kind = DecodeRule::kFuse;
  } else if (type == "Strip") {
    rule.kind = DecodeRule::kStrip;
    append_utf8(rule.content, read_character(node, "content", ' '));
    rule.start = static_cast<size_t>(node.at("start").as_integer(0, INT32_MAX));
    rule.stop = static_cast<size_t>(node.at("stop").as_integer(0, INT32_MAX));
  } else if (type == "Replace") {
    rule.kind = DecodeRule::kReplace;
    bool literal = false;
    rule.text = read_pattern(node.at("pattern"), literal);
    if (!literal) rule.regex = std::make_shared<Regex>(rule.text, node.at("pattern").where());
    rule.content = node.text("content");
  } else if (type == "CTC") {
    rule.kind = DecodeRule::kCtc;
    rule.text = node.text("pad_token");
    rule.content = node.text("word_delimiter_token");
    rule.cleanup = node.flag("cleanup", true);
  } else {
    node.fail("unknown decoder type '" + type + "'");
  }
  out.push_back(std::move(rule));
}

int32_t id_of_pair(const Node& pair) {  // ["[CLS]", 101]
  if (pair.size() != 2) pair.fail("got " + std::to_string(pair.size()) + " entries, want a token and its id");
  return static_cast<int32_t>(pair.at(size_t{1}).as_integer(0, INT32_MAX));
}

void add_post_rule(const Node& node, int depth, std::vector<PostRule>& out) {
  if (depth > 16) node.fail("Sequence nests deeper than 16");
  const std::string type = node.text("type");
  if (type == "Sequence") {
    const Node list = node.at("processors");
    for (size_t i = 0; i < list.size(); ++i) add_post_rule(list.at(i), depth + 1, out);
  } else if (type == "ByteLevel") {
    if (node.flag("trim_offsets", true)) out.push_back({PostRule::kTrimOffsets, {}, node.flag("add_prefix_space", true)});
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    if (type == "RobertaProcessing" && node.flag("trim_offsets", true)) {
      out.push_back({PostRule::kTrimOffsets, {}, node.flag("add_prefix_space", true)});
    }
    out.push_back({PostRule::kTemplate, {id_of_pair(node.at("cls")), -1, id_of_pair(node.at("sep"))}});
  } else if (type == "TemplateProcessing") {
    PostRule rule{PostRule::kTemplate, {}};
    const Node single = node.at("single");
    for (size_t i = 0; i < single.size(); ++i) {
      const Node piece = single.at(i);
      if (piece.has("Sequence")) {
        if (piece.at("Sequence").text("id") != "A") piece.fail("the template for one text uses another");
        rule.ids.push_back(-1);
        continue;
      }
      const std::string name = piece.at("SpecialToken").text("id");
      const Node ids = node.at("special_tokens").at(name.c_str()).at("ids");
      for (size_t k = 0; k < ids.size(); ++k) rule.ids.push_back(static_cast<int32_t>(ids.at(k).as_integer(0, INT32_MAX)));
    }
    if (rule.ids.size() > 1024) single.fail("got more than 1024 ids in a template");
    out.push_back(std::move(rule));
  } else {
    node.fail("unknown post-processor type '" + type + "'");
  }
}

}  // namespace

std::vector<Normalizer> read_normalizers(const Node& node) {
  std::vector<Normalizer> out;
  if (!node.json().is_null()) add_normalizer(node, 0, out);
  return out;
}
std::vector<PreTokenizer> read_pre_tokenizers(const Node& node) {
  std::vector<PreTokenizer> out;
  if (!node.json().is_null()) add_pre_tokenizer(node, 0, out);
  return out;
}
std::vector<DecodeRule> read_decoders(const Node& node) {
  std::vector<DecodeRule> out;
  if (!node.json().is_null()) add_decoder(node, 0, out);
  return out;
}
std::vector<PostRule> read_post_rules(const Node& node) {
  std::vector<PostRule> out;
  if (!node.json().is_null()) add_post_rule(node, 0, out);
  return out;
}

AddedToken read_added_token(const Node& node) {
  node.only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  AddedToken t;
  t.content = node.text("content");
  t.id = static_cast<int32_t>(node.at("id").as_integer(0, INT32_MAX - 1));
  t.single_word = node.flag("single_word", false);
  t.lstrip = node.flag("lstrip", false);
  t.rstrip = node.flag("rstrip", false);
  t.special = node.flag("special", false);
  t.normalized = node.flag("normalized", !t.special);
  if (t.content.size() > AddedMatcher::kMaxLength) node.fail("content is longer than 8192 bytes");
  return t;
}

}  // namespace weft::text
