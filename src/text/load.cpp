// Finds out what kind of vocabulary a path holds.
#include <filesystem>

#include "base/error.h"
#include "base/files.h"
#include "text/build.h"

namespace weft::text {
namespace fs = std::filesystem;

static Tokenizer load_file(const std::string& path) {
  const fs::path file(path);
  const std::string name = file.filename().string();
  const MappedFile map(path);
  const std::string_view content = map.text();
  if (content.starts_with("GGUF")) return read_gguf(content, path);
  if (content.size() > kMaxJsonBytes) throw InputError(path + ": got " + std::to_string(content.size()) + " bytes, want at most 1 GiB");
  if (name.ends_with("vocab.txt")) return read_vocab_txt(content, path);
  if (name == "vocab.json") {
    const std::string merges = (file.parent_path() / "merges.txt").string();
    if (!fs::exists(merges)) throw InputError(path + ": has no merges.txt beside it");
    return read_vocab_and_merges(content, read_file(merges), path);
  }
  if (name.ends_with(".tiktoken")) return read_tiktoken(content, path);
  size_t at = content.find_first_not_of(" \t\r\n");
  if (at != std::string_view::npos && content[at] == '{') {
    // Mistral's format says so before its long list.
    const std::string_view head = content.substr(0, 4096);
    return name.starts_with("tekken") || (head.find("\"default_num_special_tokens\"") != std::string_view::npos && head.find("\"model\"") == std::string_view::npos)
               ? read_tekken(content, path)
               : Tokenizer::from_json(content, path);
  }
  if (content.starts_with("\n")) return read_sentence_piece(content, path);  // field 1, length-delimited
  const size_t line = content.find('\n'), space = content.find(' ');
  if (line != std::string_view::npos && space < line) return read_tiktoken(content, path);
  throw InputError(path + ": is no tokenizer file\n  try: tokenizer.json, tokenizer.model, tekken.json, *.tiktoken, *.gguf, vocab.txt, or vocab.json beside merges.txt");
}

std::string Tokenizer::find_in(const std::string& folder) {
  for (const char* name : {"tokenizer.json", "tekken.json", "tokenizer.model", "vocab.json", "vocab.txt"}) {
    const fs::path file = fs::path(folder) / name;
    if (fs::exists(file)) return file.string();
  }
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder, none)) {
    if (entry.path().extension() == ".tiktoken") return entry.path().string();
  }
  return "";
}

Tokenizer Tokenizer::load(const std::string& path) {
  if (!fs::is_directory(path)) return load_file(path);
  const std::string file = find_in(path);
  if (file.empty()) throw InputError(path + ": the folder holds no tokenizer.json, tekken.json, tokenizer.model, vocab.json, vocab.txt or *.tiktoken");
  return load_file(file);
}

}  // namespace weft::text
