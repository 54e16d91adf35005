#include "app/sample_check.h"

#include <algorithm>

#include "data/indexed.h"
#include "data/prepare.h"
#include "text/tokenizer.h"

namespace weft::app {
namespace {

bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool digit(char c) { return c >= '0' && c <= '9'; }
bool part(char c) { return letter(c) || digit(c) || c == '_'; }

}  // namespace

std::vector<std::string> identifiers(std::string_view text, bool cut) {
  std::vector<std::string> out;
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && part(text[end])) ++end;
    const std::string_view run = text.substr(i, end - i);
    if (!run.empty() && !digit(run[0]) && std::count_if(run.begin(), run.end(), letter) >= 4 && !(cut && end == text.size())) out.emplace_back(run);
    i = std::max(end, i + 1);
  }
  return out;
}

int64_t longest_loop(const std::vector<int32_t>& tokens) {
  int64_t most = 0;
  for (size_t period = 1; period <= 32; ++period) {
    int64_t run = 0;
    for (size_t i = period; i < tokens.size(); ++i) most = std::max(most, run = tokens[i] == tokens[i - period] ? run + 1 : 0);
  }
  return most;
}

std::set<std::string> identifiers_of_corpus(const std::string& prepared_folder) {
  const data::PreparedData made = data::open_prepared(prepared_folder);
  const text::Tokenizer tokenizer = text::Tokenizer::load(made.tokenizer_path);
  std::set<std::string> out;
  for (const std::string& prefix : {made.train_prefix, made.val_prefix}) {
    if (prefix.empty()) continue;
    const auto tokens = data::IndexedTokens::open(prefix, data::IndexCheck::kStamped);
    for (int64_t s = 0; s < tokens.sequences(); ++s) {
      std::vector<int32_t> ids(static_cast<size_t>(tokens.length(s)));
      tokens.read(s, 0, tokens.length(s), ids.data());
      for (std::string& word : identifiers(tokenizer.decode(ids), false)) out.insert(std::move(word));
    }
  }
  return out;
}

void SampleCheck::add(std::string_view text, bool cut, const std::vector<int32_t>& tokens, const std::set<std::string>& corpus) {
  for (const std::string& word : identifiers(text, cut)) {
    ++written;
    if (corpus.count(word) != 0) ++known;
    else if (std::find(unknown.begin(), unknown.end(), word) == unknown.end()) unknown.push_back(word);
  }
  longest_loop = std::max(longest_loop, app::longest_loop(tokens));
}

Json SampleCheck::json() const {
  return {{"identifiers", written}, {"identifiers_known", known}, {"identifiers_known_fraction", known_fraction()}, {"identifiers_unknown", unknown},
          {"longest_loop_tokens", longest_loop}};
}

}  // namespace weft::app
