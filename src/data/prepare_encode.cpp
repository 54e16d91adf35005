#include "data/prepare_encode.h"

#include <xxhash.h>

#include "base/error.h"

namespace weft::data {
namespace {

Hash128 hash_of(const void* bytes, size_t size) {
  const XXH128_hash_t h = XXH3_128bits(bytes, size);
  return {h.low64, h.high64};
}

}  // namespace

BlockEncoder::BlockEncoder(const PrepareOptions& options, const Corpus& corpus, const DocumentRules& rules) : options_(options), corpus_(corpus), rules_(rules), filters_(options.filters) {
  if (options.rows && filters_.of_text()) throw ConfigError("prepare: filters of conversations see the members of a line, not its text: got " + filters_.names().front() + ", want --keep or --drop FIELD~PATTERN");
}

Encoded BlockEncoder::encode(Block& block, const TextEncoder& encoder) const {
  Encoded out;
  out.file = block.file;
  out.raw_bytes = static_cast<int64_t>(block.bytes.size());
  out.after = block.after;
  if (options_.rows) {
    encode_rows(block, out);
  } else {
    const std::string& path = corpus_.files[static_cast<size_t>(block.file)].path;
    FilterPass pass(filters_);
    out.lines = for_each_text(corpus_, rules_, block, [&](Text& text) {
      Piece p{0, static_cast<int64_t>(text.bytes.size()), text.begins, text.ends, text.held_out, text.replaced};
      if (!text.bytes.empty()) p.dropped_by = pass.dropped_by({text.bytes, text.line, text.where, path});
      if (options_.dedup) p.hash = hash_of(text.bytes.data(), text.bytes.size());
      const size_t before = out.tokens.size();
      if (!text.bytes.empty() && p.dropped_by < 0) encoder.encode(text.bytes, out.tokens);
      p.tokens = static_cast<int64_t>(out.tokens.size() - before);
      out.pieces.push_back(p);
      out.resumable = text.ends;
    });
    out.found = pass.found();
  }
  block.bytes = {};
  return out;
}

// Each sequence of a row is a document; nothing runs on into the next block.
void BlockEncoder::encode_rows(const Block& block, Encoded& out) const {
  FilterPass pass(filters_);
  out.lines = for_each_line(corpus_, rules_, block, [&](const Line& line) {
    if (const int by = pass.dropped_by({{}, line.raw, line.where, {}, false}); by >= 0) {
      out.pieces.push_back({0, static_cast<int64_t>(line.raw.size()), true, true, line.held_out, 0, {}, by});
      return;
    }
    for (const TokenRow& row : options_.rows(line.raw, line.where)) {
      Piece p{static_cast<int64_t>(row.tokens.size()), row.bytes, true, true, line.held_out};
      if (options_.dedup) p.hash = hash_of(row.tokens.data(), row.tokens.size() * sizeof row.tokens[0]);
      out.tokens.insert(out.tokens.end(), row.tokens.begin(), row.tokens.end());
      out.weights.insert(out.weights.end(), row.weights.begin(), row.weights.end());
      out.pieces.push_back(p);
    }
  });
  out.found = pass.found();
}

void BlockEncoder::for_training(const Block& block, const std::function<bool(int64_t)>& wanted, const std::function<void(std::string)>& use) const {
  const std::string& path = corpus_.files[static_cast<size_t>(block.file)].path;
  FilterPass pass(filters_);
  for_each_text(corpus_, rules_, block, [&](Text& text) {
    if (text.held_out || !wanted(static_cast<int64_t>(text.bytes.size()))) return;
    if (text.begins && text.ends && pass.dropped_by({text.bytes, text.line, text.where, path}) >= 0) return;
    use(std::move(text.bytes));
  });
}

}  // namespace weft::data
