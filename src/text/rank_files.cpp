// Vocabularies that are ranks of byte strings: tiktoken files and Mistral's tekken.json; and plain vocabulary files.
#include <algorithm>
#include <charconv>
#include <filesystem>

#include "base/error.h"
#include "text/build.h"
#include "text/byte_level.h"

namespace weft::text {

std::string decode_base64(std::string_view text, const std::string& where) {
  std::string out;
  uint32_t bits = 0;
  int have = 0;
  for (const char c : text) {
    if (c == '=') break;
    const int digit = c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;
    if (digit < 0) throw InputError(where + ": is not base64");
    bits = bits << 6 | static_cast<uint32_t>(digit);
    if ((have += 6) >= 8) out += static_cast<char>(bits >> (have -= 8) & 255);
  }
  return out;
}

std::vector<Merge> merges_from_ranks(const Vocab& bytes, int32_t first, int32_t last) {
  std::vector<Merge> out;
  std::vector<Merge> of_one;
  for (int32_t id = first; id < last; ++id) {
    const std::string_view token = bytes.token(id);
    of_one.clear();
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const Merge m{bytes.id_of(token.substr(0, cut)), bytes.id_of(token.substr(cut)), id};
      if (m.left >= 0 && m.right >= 0) of_one.push_back(m);
    }
    std::sort(of_one.begin(), of_one.end(), [](const Merge& a, const Merge& b) { return std::pair(a.left, a.right) < std::pair(b.left, b.right); });
    out.insert(out.end(), of_one.begin(), of_one.end());
  }
  return out;
}

namespace {

// ranks[i] gets id `first + i`; special tokens have their own ids.
Tokenizer make_ranked(const std::vector<std::string>& ranks, int32_t first, const Json& pre_tokenizer,
                      const std::vector<std::pair<std::string, int32_t>>& special, const std::string& path) {
  const Json sections = {{"pre_tokenizer", pre_tokenizer}, {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}}};
  auto state = Build::start(sections, path);
  Tokenizer::State& s = *state;
  Vocab bytes;
  for (size_t i = 0; i < ranks.size(); ++i) {
    const int32_t id = first + static_cast<int32_t>(i);
    if (!bytes.add(ranks[i], id)) throw InputError(path + ": rank " + std::to_string(i) + ": its bytes stand twice");
    s.vocab.add(bytes_to_alphabet(ranks[i]), id);
  }
  for (const auto& [text, id] : special) {
    AddedToken t;
    t.content = text;
    t.id = id;
    t.special = true;
    s.added.push_back(std::move(t));
    s.vocab.add_hidden(text, id);  // its place; the text is found as an added token only
  }
  BpeOptions options;
  options.ignore_merges = true;
  options.rank_by_result = true;
  s.model_json = {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", nullptr}, {"end_of_word_suffix", nullptr},
                  {"fuse_unk", false}, {"byte_fallback", false}, {"ignore_merges", true}};
  Build::set_bpe(s, merges_from_ranks(bytes, first, first + static_cast<int32_t>(ranks.size())), std::move(options));
  return Build::finish(std::move(state));
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    out.push_back(line);
    at = end + 1;
  }
  return out;
}

}  // namespace

Tokenizer read_tiktoken(std::string_view content, const std::string& path) {
  std::vector<std::string> ranks;
  size_t number = 0;
  for (const std::string_view line : lines_of(content)) {
    const std::string where = path + ": line " + std::to_string(++number);
    if (line.empty()) continue;
    const size_t space = line.find(' ');
    size_t rank = 0;
    if (space == std::string_view::npos || std::from_chars(line.data() + space + 1, line.data() + line.size(), rank).ptr != line.data() + line.size()) {
      throw InputError(where + ": want base64, a space and a rank");
    }
    if (rank != ranks.size()) throw InputError(where + ": rank: got " + std::to_string(rank) + ", want " + std::to_string(ranks.size()));
    ranks.push_back(decode_base64(line.substr(0, space), where));
    if (ranks.back().empty()) throw InputError(where + ": the token is empty");
  }
  // The file has no pattern and no special tokens: its name or size says which family it is of.
  struct Family {
    const char* name;
    size_t size;
    std::vector<std::pair<std::string, int32_t>> special;
  };
  std::vector<Family> families = {
      {"r50k_base", 50256, {{"<|endoftext|>", 50256}}},
      {"p50k_base", 50280, {{"<|endoftext|>", 50256}}},
      {"cl100k_base", 100256, {{"<|endoftext|>", 100257}, {"<|fim_prefix|>", 100258}, {"<|fim_middle|>", 100259}, {"<|fim_suffix|>", 100260}, {"<|endofprompt|>", 100276}}},
      {"o200k_base", 199998, {{"<|endoftext|>", 199999}, {"<|endofprompt|>", 200018}}},
      {"llama-bpe", 128000, {}},
      {"qwen2", 151643, {{"<|endoftext|>", 151643}, {"<|im_start|>", 151644}, {"<|im_end|>", 151645}}}};
  Family& llama = families[4];
  const char* named[] = {"<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>",
                         "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"};
  for (int32_t i = 0; i < 256; ++i) {
    llama.special.emplace_back(i < 11 ? named[i] : "<|reserved_special_token_" + std::to_string(i - 9) + "|>", 128000 + i);
  }
  const std::string file = std::filesystem::path(path).filename().string();
  for (const Family& f : families) {
    if (ranks.size() == f.size || file.find(f.name) != std::string::npos) return make_ranked(ranks, 0, pre_tokenizer_named(f.name), f.special, path);
  }
  throw InputError(path + ": a file of " + std::to_string(ranks.size()) + " ranks does not say how text is split, and its name is not known\n  try: a name with r50k_base, p50k_base, cl100k_base, o200k_base, llama-bpe or qwen2 in it, or a tokenizer.json");
}

Tokenizer read_tekken(std::string_view content, const std::string& path) {
  const Json root = read_json(content, path);
  const Node node(root, path);
  const Node config = node.at("config");
  const int64_t num_special = config.at("default_num_special_tokens").as_integer(0, 1 << 20);
  const int64_t size = config.at("default_vocab_size").as_integer(num_special, 1 << 24);
  const Node vocab = node.at("vocab");
  if (static_cast<int64_t>(vocab.size()) < size - num_special) vocab.fail("has fewer entries than default_vocab_size wants");
  std::vector<std::string> ranks;
  for (size_t i = 0; i < static_cast<size_t>(size - num_special); ++i) {
    const Node entry = vocab.at(i);
    if (entry.at("rank").as_integer(0, INT32_MAX) != static_cast<int64_t>(i)) entry.fail("rank is not its place");
    ranks.push_back(decode_base64(entry.text("token_bytes"), entry.where()));
    if (ranks.back().empty()) entry.fail("token is empty");
  }
  std::vector<std::string> names(static_cast<size_t>(num_special));
  if (node.has("special_tokens")) {
    const Node list = node.at("special_tokens");
    for (size_t i = 0; i < list.size(); ++i) names[static_cast<size_t>(list.at(i).at("rank").as_integer(0, num_special - 1))] = list.at(i).text("token_str");
  } else {  // the first files leave them out
    const char* first[] = {"<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]",
                           "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"};
    for (size_t i = 0; i < names.size() && i < std::size(first); ++i) names[i] = first[i];
  }
  std::vector<std::pair<std::string, int32_t>> special;
  for (size_t i = 0; i < names.size(); ++i) special.emplace_back(names[i].empty() ? "<SPECIAL_" + std::to_string(i) + ">" : names[i], static_cast<int32_t>(i));
  const Json pre = {{"type", "Sequence"},
                    {"pretokenizers",
                     {{{"type", "Split"}, {"pattern", {{"Regex", config.text("pattern")}}}, {"behavior", "Isolated"}, {"invert", false}},
                      {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}}}}};
  return make_ranked(ranks, static_cast<int32_t>(num_special), pre, special, path);
}

Tokenizer read_vocab_txt(std::string_view content, const std::string& path) {
  Json vocab = Json::object();
  int32_t id = 0;
  std::vector<std::string_view> lines = lines_of(content);
  for (const std::string_view line : lines) {
    if (!vocab.emplace(std::string(line), id++).second) throw InputError(path + ": line " + std::to_string(id) + ": '" + std::string(line.substr(0, 60)) + "' stands twice");
  }
  Json added = Json::array();
  for (const char* name : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    if (vocab.contains(name)) added.push_back({{"id", vocab[name]}, {"content", name}, {"special", true}, {"normalized", false}});
  }
  for (const char* name : {"[UNK]", "[CLS]", "[SEP]"}) {
    if (!vocab.contains(name)) throw InputError(path + ": has no " + name + ", want a WordPiece vocabulary");
  }
  // A vocabulary with capitals is a cased one.
  bool cased = false;
  for (const std::string_view line : lines) cased |= !line.starts_with('[') && std::any_of(line.begin(), line.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
  const Json root = {{"added_tokens", added},
                     {"normalizer", {{"type", "BertNormalizer"}, {"clean_text", true}, {"handle_chinese_chars", true}, {"strip_accents", nullptr}, {"lowercase", !cased}}},
                     {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
                     {"post_processor", {{"type", "BertProcessing"}, {"sep", {"[SEP]", vocab["[SEP]"]}}, {"cls", {"[CLS]", vocab["[CLS]"]}}}},
                     {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}},
                     {"model", {{"type", "WordPiece"}, {"unk_token", "[UNK]"}, {"continuing_subword_prefix", "##"}, {"max_input_chars_per_word", 100}, {"vocab", vocab}}}};
  return Tokenizer::from_json(root.dump(), path);
}

Tokenizer read_vocab_and_merges(std::string_view vocab_json, std::string_view merges, const std::string& path) {
  const Json vocab = read_json(vocab_json, path);
  Json list = Json::array();
  for (const std::string_view line : lines_of(merges)) {
    if (!line.starts_with("#version") && !line.empty()) list.push_back(std::string(line));
  }
  Json added = Json::array();
  for (const char* name : {"<|endoftext|>", "<s>", "</s>", "<pad>", "<unk>", "<mask>"}) {
    if (vocab.is_object() && vocab.contains(name)) added.push_back({{"id", vocab[name]}, {"content", name}, {"special", true}, {"normalized", false}});
  }
  const Json root = {{"added_tokens", added},
                     {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
                     {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
                     {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", list}}}};
  return Tokenizer::from_json(root.dump(), path);
}

}  // namespace weft::text
