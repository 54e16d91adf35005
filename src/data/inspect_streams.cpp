#include "data/inspect_streams.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "data/show.h"
#include "data/side_streams.h"
#include "data/source.h"
#include "data/structure/node_types.h"
#include "text/tokenizer.h"

namespace weft::data {
namespace {

constexpr int64_t kChunk = 1 << 16;

// Lines of a file, one at a time: a file of documents may be larger than memory.
class Lines {
 public:
  explicit Lines(const std::string& path) : source_(open_source(path, Packed::kPlain)) {}
  bool next(std::string& line) {
    for (;;) {
      const size_t end = buffer_.find('\n', at_);
      if (end != std::string::npos) {
        line.assign(buffer_, at_, end - at_);
        at_ = end + 1;
        return true;
      }
      buffer_.erase(0, at_), at_ = 0;
      const size_t had = buffer_.size();
      buffer_.resize(had + static_cast<size_t>(kChunk));
      const int64_t n = source_->read(buffer_.data() + had, kChunk);
      buffer_.resize(had + static_cast<size_t>(n));
      if (n == 0) {
        line = std::move(buffer_), buffer_.clear();
        return !line.empty();
      }
    }
  }

 private:
  std::unique_ptr<ByteSource> source_;
  std::string buffer_;
  size_t at_ = 0;
};

void check_documents(const IndexedTokens& set, const SideStreams& streams, const std::string& path) {
  Lines lines(path);
  std::string line;
  std::vector<int32_t> levels;
  int64_t document = 0;
  for (; lines.next(line); ++document) {
    const std::string where = "streams '" + path + "' line " + std::to_string(document + 1) + ": ";
    const auto broken = [&](const std::string& what, int64_t got, int64_t want) { throw InputError(where + what + ": got " + std::to_string(got) + ", want " + std::to_string(want)); };
    if (document >= set.documents()) broken("more lines than documents", document + 1, set.documents());
    const int64_t begin = set.begin(set.boundary(document)), tokens = set.begin(set.boundary(document + 1)) - begin;
    const Json j = parse_json(line, path);
    try {
      if (j.at("tokens").get<int64_t>() != tokens) broken("tokens of the document", j.at("tokens").get<int64_t>(), tokens);
      levels.resize(static_cast<size_t>(tokens));
      if (streams.has(1)) streams.read(1, begin, tokens, levels.data());
      int64_t at = 0;
      const auto check_levels = [&](int64_t end, int64_t level) {
        for (; at < end; ++at) {
          if (streams.has(1) && levels[static_cast<size_t>(at)] != level) broken("dep level of token " + std::to_string(at), levels[static_cast<size_t>(at)], level);
        }
      };
      for (const Json& chunk : j.at("chunks")) {
        const int64_t start = chunk.at("start").get<int64_t>(), end = chunk.at("end").get<int64_t>();
        if (start != at) broken("start of a part", start, at);
        if (end < start || end > tokens) broken("end of a part", end, tokens);
        check_levels(end, std::min<int64_t>(chunk.at("dep_level").get<int64_t>(), 0xFFFE));
      }
      if (tokens - at > 1) broken("tokens behind the last part", tokens - at, 1);
      check_levels(tokens, 0);
    } catch (const nlohmann::json::exception& e) {
      throw InputError(where + "damaged: " + e.what());
    }
  }
  if (document != set.documents()) throw InputError("streams '" + path + "': not one line a document: got " + std::to_string(document) + " lines, want " + std::to_string(set.documents()));
}

}  // namespace

Json check_streams(const std::string& prefix) {
  const IndexedTokens set = IndexedTokens::open(prefix, IndexCheck::kHeader);
  const auto streams = SideStreams::open(prefix, set.tokens(), IndexCheck::kFull);
  if (!streams) return nullptr;
  const bool ours = read_json_file(prefix + ".idx.json").value("format", std::string()) == "weft.streams.1";
  Json out;
  out["streams"] = Json::object();
  std::vector<int32_t> values(static_cast<size_t>(kChunk));
  for (int s = 0; s < kNumStreams; ++s) {
    if (!streams->has(s)) continue;
    int64_t absent = 0, highest = -1;
    for (int64_t at = 0; at < set.tokens(); at += kChunk) {
      const int64_t n = std::min(kChunk, set.tokens() - at);
      streams->read(s, at, n, values.data());
      for (int64_t i = 0; i < n; ++i) absent += values[static_cast<size_t>(i)] < 0, highest = std::max<int64_t>(highest, values[static_cast<size_t>(i)]);
    }
    const char* name = kStreamKinds[static_cast<size_t>(s)].name;
    const int64_t limit = s == 0 ? kStructures : s == 4 ? kNodeTypes : int64_t{1} << 32;
    if (ours && highest >= limit) throw InputError("streams '" + prefix + "': " + name + ": value out of range: got " + std::to_string(highest) + ", want below " + std::to_string(limit));
    out["streams"][name] = {{"present", set.tokens() - absent}, {"absent", absent}, {"max", highest}};
  }
  out["unused"] = streams->others();
  out["hashes"] = streams->has_hashes() ? "all right" : "none";
  const std::string documents = prefix + ".documents.jsonl";
  out["documents"] = nullptr;
  if (std::filesystem::exists(documents)) check_documents(set, *streams, documents), out["documents"] = "agree";
  return out;
}

std::string show_streams(const PreparedData& data, int64_t documents) {
  constexpr int64_t kMostTokens = 2000;  // of one document
  const std::string& prefix = data.train_prefix;
  const text::Tokenizer tokenizer = text::Tokenizer::load(data.tokenizer_path);
  const IndexedTokens set = IndexedTokens::open(prefix, IndexCheck::kStamped);
  const auto streams = SideStreams::open(prefix, set.tokens(), IndexCheck::kStamped);
  if (!streams) throw InputError("streams '" + prefix + "': no " + prefix + ".idx.json\n  try: weft prepare --structure cpp");
  std::string out;
  for (int64_t d = 0; d < std::min(documents, set.documents()); ++d) {
    const int64_t begin = set.begin(set.boundary(d)), all = set.begin(set.boundary(d + 1)) - begin, n = std::min(all, kMostTokens);
    std::vector<int32_t> ids(static_cast<size_t>(n));
    std::array<std::vector<int32_t>, kNumStreams> values;
    set.read_flat(begin, n, ids.data());
    for (int s = 0; s < kNumStreams; ++s) {
      values[static_cast<size_t>(s)].assign(static_cast<size_t>(n), -1);
      if (streams->has(s)) streams->read(s, begin, n, values[static_cast<size_t>(s)].data());
    }
    const auto same = [&](size_t a, size_t b) { return std::all_of(values.begin(), values.end(), [&](const auto& v) { return v[a] == v[b]; }); };
    out += fmt::format("document {}: {} tokens\n{:<18} {:>3} {:>5} {:>7} {:<17} {}\n", d, all, "structure", "dep", "depth", "sibling", "node type", "tokens");
    for (size_t i = 0; i < ids.size();) {
      std::string text;
      size_t end = i;
      for (; end < ids.size() && same(i, end); ++end) text += (end > i ? "|" : "") + shown_token(tokenizer.token_bytes(ids[end]));
      const auto number = [&](size_t s) { return values[s][i] < 0 ? std::string("-") : std::to_string(values[s][i]); };
      const int32_t structure = values[0][i], node = values[4][i];
      out += fmt::format("{:<18} {:>3} {:>5} {:>7} {:<17} {}\n", structure >= 0 && structure < kStructures ? name_of(static_cast<Structure>(structure)) : number(0), number(1), number(2), number(3),
                         node >= 0 && node < kNodeTypes ? node_types()[static_cast<size_t>(node)].name : number(4), text);
      i = end;
    }
    if (n < all) out += fmt::format("  and {} tokens more\n", all - n);
  }
  return out;
}

}  // namespace weft::data
