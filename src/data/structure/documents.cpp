#include "data/structure/documents.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/error.h"
#include "base/text.h"
#include "data/block_hashes.h"
#include "data/python_text.h"

namespace weft::data {

StructureWriter::StructureWriter(const std::string& prefix, TokenType type)
    : prefix_(prefix), tokens_(prefix, type), streams_(prefix, 0), lines_(prefix + ".documents.jsonl.part", 0) {}

void StructureWriter::add(const Document& d) {
  tokens_.add_document(d.ids);
  std::array<std::span<const int32_t>, kNumStreams> spans;
  for (size_t s = 0; s < spans.size(); ++s) spans[s] = d.streams[s];
  WEFT_CHECK(spans[0].size() == d.ids.size(), "streams beside the tokens");
  streams_.add(spans);
  lines_.write(d.line.data(), d.line.size());
}

void StructureWriter::finish() {
  tokens_.finish();
  write_block_hashes(prefix_);
  lines_.close_as(prefix_ + ".documents.jsonl");
  streams_.finish();
}

void StructureWriter::discard() { tokens_.discard(), streams_.discard(), lines_.discard(); }

DocumentMaker::DocumentMaker(const FunctionTable& table, const Spool& spool, const MappedFile& tokens, const std::vector<std::string>& paths, const DocumentOptions& options)
    : table_(table), spool_(spool), tokens_(tokens), paths_(paths), options_(options), seen_at_(table.rows.size(), -1) {}

// Preamble, callees by level, root; each with as many of its tokens as there is room for.
std::vector<DocumentMaker::Part> DocumentMaker::choose(int32_t root, StructureReport& report) {
  const auto row = [&](int32_t i) -> const PieceRow& { return table_.rows[static_cast<size_t>(i)]; };
  const int64_t limit = options_.structure.document_tokens == 0 ? INT64_MAX : options_.structure.document_tokens - (options_.eod >= 0);
  const int64_t root_tokens = std::min<int64_t>(row(root).tokens, limit);
  int64_t room = limit - root_tokens;
  const int32_t preamble = row(root).preamble;
  const int64_t preamble_tokens = std::min<int64_t>(row(preamble).tokens, std::min(room, limit / 2));
  room -= preamble_tokens;
  report.cut += root_tokens < row(root).tokens || preamble_tokens < row(preamble).tokens;
  std::vector<Part> parts;
  const bool train = !held_out(root);
  for_each_callee(table_.calls, root, options_.structure.call_levels, seen_at_, root, [&](int32_t callee) {
    if (train && held_out(callee)) return ++report.held_back, true;
    if (row(callee).tokens > room) return ++report.left_out, room > 0;
    room -= row(callee).tokens;
    parts.push_back({callee, row(callee).tokens});
    return true;
  });
  std::sort(parts.begin(), parts.end(), [&](const Part& a, const Part& b) { return std::pair(row(a.row).level, a.row) < std::pair(row(b.row).level, b.row); });
  if (preamble_tokens > 0) parts.insert(parts.begin(), Part{preamble, preamble_tokens});
  parts.push_back({root, root_tokens});
  return parts;
}

bool DocumentMaker::make(int32_t root, StructureWriter::Document& out, StructureReport& report) {
  const std::vector<Part> parts = choose(root, report);
  int64_t tokens = options_.eod >= 0;
  std::string text;
  for (const Part& p : parts) {
    tokens += p.tokens;
    text += table_.rows[static_cast<size_t>(p.row)].text(spool_);
  }
  if (tokens < options_.structure.min_tokens) return ++report.prepare.filtered, false;
  if (!digests_.insert(md5_hex(text)).second) return ++report.prepare.duplicates, false;
  if (static_cast<int64_t>(digests_.size()) * 96 > options_.memory / 4) {
    throw ConfigError(fmt::format("prepare: the digests of {} documents do not fit in a quarter of --memory\n  try: --memory {}", digests_.size(), human_bytes(static_cast<uint64_t>(2 * options_.memory))));
  }
  SplitCounts& counts = held_out(root) ? report.prepare.val : report.prepare.train;
  counts.bytes += static_cast<int64_t>(text.size());

  out.ids.clear();
  for (auto& s : out.streams) s.clear();
  const PieceRow& r = table_.rows[static_cast<size_t>(root)];
  Json chunks = Json::array(), calls = Json::array();
  for (const Part& p : parts) {
    const PieceRow& row = table_.rows[static_cast<size_t>(p.row)];
    const PieceView view{tokens_.text().data() + row.at, row.tokens};
    const auto begin = static_cast<int64_t>(out.ids.size());
    view.ids(p.tokens, out.ids);
    view.structure(p.tokens, out.streams[0]);
    out.streams[1].insert(out.streams[1].end(), static_cast<size_t>(p.tokens), row.level);
    for (int c = 0; c < 3; ++c) view.column(c, p.tokens, out.streams[static_cast<size_t>(2 + c)]);
    const std::string name(row.name(spool_));
    Json chunk{{"start", begin}, {"end", begin + p.tokens}, {"kind", static_cast<int>(row.kind)}, {"dep_level", row.level}, {"file", paths_[static_cast<size_t>(row.file)]}, {"line", row.line}, {"offset", row.offset}};
    if (row.kind != CppPiece::kPreamble) chunk["name"] = name, chunk["symbol_id"] = symbol_id(name);
    chunks.push_back(std::move(chunk));
  }
  if (options_.eod >= 0) {
    out.ids.push_back(options_.eod);
    out.streams[0].push_back(0), out.streams[1].push_back(0);
    for (size_t s = 2; s < out.streams.size(); ++s) out.streams[s].push_back(-1);
  }
  for (size_t a = 0; a < parts.size(); ++a) {
    const auto first = table_.calls.callees.begin() + table_.calls.first[static_cast<size_t>(parts[a].row)], last = table_.calls.callees.begin() + table_.calls.first[static_cast<size_t>(parts[a].row) + 1];
    for (size_t b = 0; b < parts.size(); ++b) {
      if (std::find(first, last, parts[b].row) != last) calls.push_back({a, b});
    }
  }
  for (const int32_t id : out.ids) counts.max_token = std::max<int64_t>(counts.max_token, id);
  counts.tokens += tokens, ++counts.documents;
  const Json line{{"root", std::string(r.name(spool_))}, {"file", paths_[static_cast<size_t>(r.file)]}, {"tokens", tokens}, {"chunks", std::move(chunks)}, {"call_edges", std::move(calls)}};
  out.line = line.dump() + "\n";
  return true;
}

}  // namespace weft::data
