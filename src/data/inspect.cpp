#include "data/inspect.h"

#include <algorithm>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "data/dataset.h"
#include "data/inspect_streams.h"
#include "data/prepare_state.h"
#include "data/token_weights.h"
#include "data/utf8.h"
#include "text/tokenizer.h"

namespace weft::data {
namespace {

Json inspect_set(const std::string& prefix, const text::Tokenizer* tokenizer, const InspectOptions& options) {
  const IndexedTokens set = IndexedTokens::open(prefix, IndexCheck::kFull);
  Json j;
  j["prefix"] = prefix;
  j["type"] = name_of(set.type());
  j["sequences"] = set.sequences();
  j["documents"] = set.documents();
  j["tokens"] = set.tokens();
  j["bytes"] = set.bin().size();
  int64_t empty = 0;
  for (int64_t d = 0; d < set.documents(); ++d) empty += set.boundary(d) == set.boundary(d + 1);
  j["empty_documents"] = empty;
  if (set.sequences() > 0) {
    int32_t low = set.length(0), high = 0;
    for (int64_t i = 0; i < set.sequences(); ++i) low = std::min(low, set.length(i)), high = std::max(high, set.length(i));
    j["lengths"] = {{"min", low}, {"mean", static_cast<double>(set.tokens()) / static_cast<double>(set.sequences())}, {"max", high}};
  }
  j["max_token"] = set.max_token();  // reads all of .bin, and so checks all hashes
  j["hashes"] = set.has_hashes() ? "all right" : "none";
  j["streams"] = check_streams(prefix);
  const int64_t vocabulary = options.vocab_size > 0 ? options.vocab_size : tokenizer != nullptr ? tokenizer->vocab_size() : 0;
  if (vocabulary > 0 && j["max_token"].get<int64_t>() >= vocabulary) check_vocabulary(set, vocabulary);  // says where
  const auto weights = TokenWeights::open(prefix, set.tokens());
  if (weights) weights->check();
  j["weights"] = weights ? "all right" : "none";
  Json first = Json::array();
  for (int64_t i = 0; i < std::min(options.show_documents, set.sequences()); ++i) {
    std::vector<int32_t> ids(static_cast<size_t>(std::min<int64_t>(set.length(i), options.show_bytes)));
    set.read(i, 0, static_cast<int64_t>(ids.size()), ids.data());
    Json shown;
    shown["tokens"] = set.length(i);
    if (tokenizer != nullptr) {
      std::string text;
      append_clean_utf8(tokenizer->decode(ids), text);
      if (static_cast<int64_t>(text.size()) > options.show_bytes) {
        text.resize(static_cast<size_t>(options.show_bytes));
        text.resize(valid_utf8_prefix(text));
      }
      shown["text"] = text;
    } else {
      ids.resize(std::min<size_t>(ids.size(), 16));
      shown["ids"] = ids;
    }
    first.push_back(shown);
  }
  j["first"] = first;
  return j;
}

void check_counts(const Json& set, const SplitCounts& want, const std::string& folder) {
  const auto check = [&](const char* what, int64_t got, int64_t expected) {
    if (got != expected) throw InputError("data: '" + folder + "/manifest.json' does not fit '" + set["prefix"].get<std::string>() + "': " + what + ": got " + std::to_string(got) + ", want " + std::to_string(expected));
  };
  check("documents", set["documents"], want.documents);
  check("tokens", set["tokens"], want.tokens);
  check("max_token", set["max_token"], want.max_token);
}

bool same_path(const std::string& a, const std::string& b) {
  return std::filesystem::path(a).lexically_normal() == std::filesystem::path(b).lexically_normal();
}

// The prepared folder that a prefix lies in, when its manifest names it; else an empty one.
PreparedData prepared_around(const std::string& prefix) {
  const std::string parent = std::filesystem::path(prefix).parent_path().string(), folder = parent.empty() ? "." : parent;
  if (!std::filesystem::exists(folder + "/manifest.json")) return {};
  const Json manifest = read_json_file(folder + "/manifest.json");
  if (!manifest.is_object() || !manifest.contains("format") || manifest["format"] != "weft.data.1") return {};
  PreparedData d = open_prepared(folder);
  return same_path(prefix, d.train_prefix) || same_path(prefix, d.val_prefix) ? d : PreparedData{};
}

}  // namespace

Json inspect_data(const std::string& path, const InspectOptions& options) {
  const bool folder = std::filesystem::exists(path + "/manifest.json");
  std::string prefix = path;
  for (const char* end : {".idx", ".bin"}) {
    if (prefix.ends_with(end)) prefix.resize(prefix.size() - 4);
  }
  const bool one_set = !folder;
  PreparedData prepared = folder ? open_prepared(path) : prepared_around(prefix);
  const std::string tokenizer_path = options.tokenizer.empty() ? prepared.tokenizer_path : options.tokenizer;
  std::unique_ptr<text::Tokenizer> tokenizer;
  if (!tokenizer_path.empty()) tokenizer = std::make_unique<text::Tokenizer>(text::Tokenizer::load(tokenizer_path));
  Json out;
  out["sets"] = Json::array();
  if (!prepared.folder.empty()) {
    const Json manifest = read_json_file(prepared.folder + "/manifest.json");
    const std::string recorded = manifest.at("tokenizer").at("xxh3_128").get<std::string>(), found = hex_hash(read_file(prepared.tokenizer_path));
    if (recorded != found) throw InputError("data: '" + prepared.tokenizer_path + "' is not the tokenizer that made the tokens: got hash " + found + ", want " + recorded);
    for (const auto& [name, counts] : {std::pair(prepared.train_prefix, prepared.train), std::pair(prepared.val_prefix, prepared.val)}) {
      if (name.empty() || (one_set && !same_path(name, prefix))) continue;
      out["sets"].push_back(inspect_set(name, tokenizer.get(), options));
      check_counts(out["sets"].back(), counts, prepared.folder);
    }
    out["manifest"] = "agrees";
  } else {
    out["sets"].push_back(inspect_set(prefix, tokenizer.get(), options));
    out["manifest"] = nullptr;
  }
  out["vocab_size"] = tokenizer ? Json(tokenizer->vocab_size()) : Json(nullptr);
  out["tokenizer_hash"] = tokenizer ? Json(tokenizer->content_hash()) : Json(nullptr);
  return out;
}

}  // namespace weft::data
