#include "app/prepare_report.h"

#include <fmt/format.h>

#include "base/log.h"
#include "base/text.h"

namespace weft::app {

void show_prepare_progress(const data::PrepareProgress& p) {
  const double part = p.bytes_total > 0 ? 100.0 * static_cast<double>(p.bytes_done) / static_cast<double>(p.bytes_total) : 100;
  const std::string_view stage = p.stage;
  std::string text = fmt::format("{} {:3.0f} %", stage, part);
  if (stage != "documents") text += "  " + human_bytes(static_cast<uint64_t>(p.bytes_done));
  if (p.documents > 0) text += fmt::format("  {} {}", human_count(static_cast<double>(p.documents)), stage == "parse" ? "files" : "documents");
  if (p.tokens > 0) text += fmt::format("  {} tokens", human_count(static_cast<double>(p.tokens)));
  log::progress(text);
}

void print_prepare_report(const data::PrepareReport& r, const data::PreparedData& made) {
  for (const std::string& w : r.warnings) log::warn(w);
  if (r.reused) fmt::print("everything was there already\n");
  if (r.resumed) fmt::print("went on from a stopped run\n");
  fmt::print("{:<6} {:>12} {:>14} {:>14}\n", "", "documents", "tokens", "bytes");
  for (const auto& [name, c] : {std::pair("train", r.train), std::pair("val", r.val)})
    fmt::print("{:<6} {:>12} {:>14} {:>14}\n", name, c.documents, c.tokens, c.bytes);
  fmt::print("vocabulary {}; {} files, {} lines", made.vocab_size, r.files, r.lines);
  for (const auto& [what, n] : {std::pair("empty documents", r.empty_documents), std::pair("duplicates dropped", r.duplicates),
                                std::pair("filtered", r.filtered)})
    if (n > 0) fmt::print("; {} {}", n, what);
  if (r.replaced_utf8 > 0) fmt::print("; {} bytes of invalid UTF-8 replaced in {} documents", r.replaced_utf8, r.documents_with_replacements);
  fmt::print("\n");
  for (const auto& [filter, n] : r.filtered_by) fmt::print("dropped {} documents: {}\n", n, filter);
  for (const auto& [reason, n] : r.skipped) fmt::print("skipped {} files: {}\n", n, reason);
  fmt::print("wrote {}\n", made.folder);
}

Json prepare_figures(const data::PrepareReport& r, const data::PreparedData& made, double seconds) {
  Json out = Json::object();
  out["wall_s"] = seconds;
  for (const auto& [name, c] : {std::pair("train", r.train), std::pair("val", r.val)}) {
    out[std::string(name) + "_documents"] = c.documents;
    out[std::string(name) + "_tokens"] = c.tokens;
    out[std::string(name) + "_bytes"] = c.bytes;
  }
  out["vocab_size"] = made.vocab_size;
  out["replaced_utf8"] = r.replaced_utf8;
  out["filtered"] = r.filtered_by;
  out["skipped"] = r.skipped;
  out["reused"] = r.reused;
  return out;
}

}  // namespace weft::app
