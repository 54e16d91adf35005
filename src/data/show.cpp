#include "data/show.h"

#include <fmt/format.h>

#include <algorithm>

#include "data/token_weights.h"
#include "data/utf8.h"
#include "text/tokenizer.h"

namespace weft::data {
namespace {

constexpr int64_t kMostTokens = 2000;  // of one document

}  // namespace

std::string shown_token(const std::string& bytes) {
  std::string clean, out;
  append_clean_utf8(bytes, clean);
  for (char c : clean) {
    const unsigned char u = static_cast<unsigned char>(c);
    if (c == '\n') out += "\\n";
    else if (c == '\t') out += "\\t";
    else if (c == '\\' || c == '|') out += '\\', out += c;
    else if (u < 32 || u == 127) out += fmt::format("\\x{:02x}", u);
    else out += c;
  }
  return out;
}

std::string show_documents(const PreparedData& data, int64_t documents, const ShowPaint& paint) {
  const text::Tokenizer tokenizer = text::Tokenizer::load(data.tokenizer_path);
  const IndexedTokens set = IndexedTokens::open(data.train_prefix, IndexCheck::kStamped);
  const auto weights = TokenWeights::open(data.train_prefix, set.tokens());
  std::string out;
  for (int64_t d = 0; d < std::min(documents, set.documents()); ++d) {
    const int64_t begin = set.begin(set.boundary(d)), n = set.begin(set.boundary(d + 1)) - begin, shown = std::min(n, kMostTokens);
    std::vector<int32_t> ids(static_cast<size_t>(shown));
    std::vector<float> w(static_cast<size_t>(n), 1.0f);
    set.read_flat(begin, shown, ids.data());
    if (weights) weights->read(begin, n, w.data());
    const auto learned = std::count_if(w.begin() + std::min<int64_t>(n, 1), w.end(), [](float x) { return x > 0; });  // nothing predicts the first token
    out += fmt::format("document {}: {} tokens, {} learned\n", d, n, learned);
    for (size_t i = 0; i < ids.size();) {
      const float weight = i == 0 ? 0 : w[i];
      std::string run;
      size_t end = i;
      for (; end < ids.size() && (end == 0 ? 0 : w[end]) == weight; ++end) run += (run.empty() ? "" : "|") + shown_token(tokenizer.token_bytes(ids[end]));
      out += weight > 0 ? fmt::format("  learn {:<4} ", weight) : "  skip       ";
      out += (paint ? paint(run, weight > 0) : run) + "\n";
      i = end;
    }
    if (shown < n) out += fmt::format("  and {} tokens more\n", n - shown);
  }
  return out;
}

}  // namespace weft::data
