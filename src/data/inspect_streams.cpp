#include "data/inspect_streams.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "data/side_streams.h"
#include "data/source.h"
#include "data/structure/node_types.h"
#include "data/utf8.h"

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

std::string show_streams(const std::string& prefix, const text::Tokenizer& tokenizer, int64_t document, int64_t first, int64_t tokens) {
  const IndexedTokens set = IndexedTokens::open(prefix, IndexCheck::kHeader);
  const auto streams = SideStreams::open(prefix, set.tokens(), IndexCheck::kHeader);
  if (!streams) throw InputError("streams '" + prefix + "': no " + prefix + ".idx.json\n  try: weft prepare --structure cpp");
  if (document < 0 || document >= set.documents()) throw InputError("streams '" + prefix + "': got document " + std::to_string(document) + ", want below " + std::to_string(set.documents()));
  const int64_t begin = set.begin(set.boundary(document)) + first, end = set.begin(set.boundary(document + 1));
  const int64_t n = std::clamp<int64_t>(end - begin, 0, tokens);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  std::array<std::vector<int32_t>, kNumStreams> values;
  set.read_flat(begin, n, ids.data());
  for (int s = 0; s < kNumStreams; ++s) {
    values[static_cast<size_t>(s)].assign(static_cast<size_t>(n), -1);
    if (streams->has(s)) streams->read(s, begin, n, values[static_cast<size_t>(s)].data());
  }
  std::string out = fmt::format("{:<20} {:<18} {:>3} {:>5} {:>7} {}\n", "token", "structure", "dep", "depth", "sibling", "node type");
  for (size_t i = 0; i < ids.size(); ++i) {
    std::string text;
    append_clean_utf8(tokenizer.token_bytes(ids[i]), text);
    const std::string shown = Json(text).dump();
    const auto number = [&](int s) { return values[static_cast<size_t>(s)][i] < 0 ? std::string("-") : std::to_string(values[static_cast<size_t>(s)][i]); };
    const int32_t structure = values[0][i], node = values[4][i];
    out += fmt::format("{:<20} {:<18} {:>3} {:>5} {:>7} {}\n", shown, structure >= 0 && structure < kStructures ? name_of(static_cast<Structure>(structure)) : number(0), number(1), number(2), number(3),
                       node >= 0 && node < kNodeTypes ? node_types()[static_cast<size_t>(node)].name : number(4));
  }
  return out;
}

}  // namespace weft::data
