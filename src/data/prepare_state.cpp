#include "data/prepare_state.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <filesystem>

#include "base/error.h"
#include "base/files.h"

namespace weft::data {
namespace {

// The report as JSON, one list of names for writing and reading.
template <class Report, class Visitor>
void visit_counts(Report& r, Visitor&& visit) {
  visit("files", r.files), visit("lines", r.lines), visit("empty_documents", r.empty_documents);
  visit("duplicates", r.duplicates), visit("filtered", r.filtered);
  visit("replaced_utf8", r.replaced_utf8), visit("documents_with_replacements", r.documents_with_replacements);
}
Json split_json(const SplitCounts& s) {
  return {{"documents", s.documents}, {"tokens", s.tokens}, {"bytes", s.bytes}, {"max_token", s.max_token}};
}
SplitCounts split_of(const Json& j) {
  return {j.at("documents").get<int64_t>(), j.at("tokens").get<int64_t>(), j.at("bytes").get<int64_t>(), j.at("max_token").get<int64_t>()};
}
Json report_json(const PrepareReport& r) {
  Json j;
  j["train"] = split_json(r.train);
  j["val"] = split_json(r.val);
  visit_counts(r, [&](const char* name, const int64_t& value) { j[name] = value; });
  j["filtered_by"] = r.filtered_by;
  j["skipped"] = r.skipped;
  j["warnings"] = r.warnings;
  return j;
}
PrepareReport report_from(const Json& j) {
  PrepareReport r;
  r.train = split_of(j.at("train"));
  r.val = split_of(j.at("val"));
  visit_counts(r, [&](const char* name, int64_t& value) { value = j.at(name).get<int64_t>(); });
  r.filtered_by = j.value("filtered_by", std::map<std::string, int64_t>());
  r.skipped = j.at("skipped").get<std::map<std::string, int64_t>>();
  r.warnings = j.at("warnings").get<std::vector<std::string>>();
  return r;
}
Json mark_json(const IndexedWriter::Mark& m) { return Json::array({m.bin_bytes, m.sequences, m.boundaries}); }
IndexedWriter::Mark mark_of(const Json& j) { return {j.at(0).get<int64_t>(), j.at(1).get<int64_t>(), j.at(2).get<int64_t>()}; }

Json held_out_json(const std::vector<HeldOutFile>& files) {
  Json list = Json::array();
  for (const HeldOutFile& f : files) list.push_back({{"index", f.index}, {"path", f.path}, {"documents", f.documents}, {"tokens", f.tokens}});
  return list;
}

}  // namespace

std::string hex_hash(std::string_view bytes) {
  const XXH128_hash_t h = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", h.high64, h.low64);
}

std::string prepare_identity(const PrepareOptions& o, const Corpus& corpus, const std::string& tokenizer_identity) {
  std::string all = fmt::format("prepare 1\nkey={}\neod={}\ndedup={}\nmin={}\nmax={}\nhold_out={}\nsample={}\ntokenizer={}\n", o.key, o.append_eod, o.dedup,
                                o.min_bytes, o.max_bytes, o.hold_out_every, o.sample_bytes, tokenizer_identity);
  if (!o.filters.empty()) all += o.filters.identity() + "\n";
  if (o.rows) all += "rows=" + o.rows_identity + "\n";
  for (const CorpusFile& f : corpus.files) all += fmt::format("{}\t{}\t{}\n", f.path, f.bytes, f.mtime_ns);
  return hex_hash(all);
}

void save_state(const std::string& path, const PrepareState& s) {
  Json j;
  j["identity"] = s.identity;
  j["position"] = {s.position.file, s.position.offset, s.position.line};
  j["train"] = mark_json(s.train);
  j["val"] = mark_json(s.val);
  j["train_weights"] = s.train_weights;
  j["val_weights"] = s.val_weights;
  j["report"] = report_json(s.report);
  j["held_out"] = held_out_json(s.held_out);
  j["dedup_hashes"] = s.dedup_hashes;
  j["fields_found"] = s.fields_found;
  j["tokenizer_file"] = s.tokenizer_file;
  write_json_file(path, j);
}

std::optional<PrepareState> load_state(const std::string& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  try {
    const Json j = read_json_file(path);
    PrepareState s;
    s.identity = j.at("identity").get<std::string>();
    s.position = {j.at("position").at(0).get<int64_t>(), j.at("position").at(1).get<int64_t>(), j.at("position").at(2).get<int64_t>()};
    s.train = mark_of(j.at("train"));
    s.val = mark_of(j.at("val"));
    s.train_weights = j.at("train_weights").get<std::vector<float>>();
    s.val_weights = j.at("val_weights").get<std::vector<float>>();
    s.report = report_from(j.at("report"));
    for (const Json& f : j.at("held_out")) {
      s.held_out.push_back({f.at("index").get<int64_t>(), f.at("path").get<std::string>(), f.at("documents").get<int64_t>(), f.at("tokens").get<int64_t>()});
    }
    s.dedup_hashes = j.at("dedup_hashes").get<int64_t>();
    s.fields_found = j.at("fields_found").get<std::map<std::string, int64_t>>();
    s.tokenizer_file = j.at("tokenizer_file").get<std::string>();
    return s;
  } catch (const std::exception&) {  // a damaged state is no state: the run starts again, nothing is lost but time
    return std::nullopt;
  }
}

Json manifest_of(const PrepareOptions& o, const Corpus& corpus, const PrepareState& s, const ManifestFacts& facts) {
  const bool val = s.report.val.documents > 0;
  Json j;
  j["format"] = "weft.data.1";
  j["identity"] = facts.identity;
  j["train"] = kTrainName;
  j["val"] = val ? Json(kValName) : Json(nullptr);
  j["token_type"] = facts.type;
  j["tokenizer"] = {{"file", facts.tokenizer_file}, {"xxh3_128", facts.tokenizer_hash}, {"vocab_size", facts.vocab_size}, {"eod", facts.eod}};
  j["append_eod"] = o.append_eod;
  j["chat"] = static_cast<bool>(o.rows);
  j["hold_out"] = {{"every", o.hold_out_every}, {"unit", facts.hold_out == HoldOut::kFiles ? "file" : facts.hold_out == HoldOut::kParts ? "line, or the end of a text file" : "none"}};
  j["counts"] = report_json(s.report);
  j["corpus"] = {{"inputs", o.inputs}, {"files", corpus.files.size()}, {"bytes", corpus.bytes}};
  j["held_out_files"] = held_out_json(s.held_out);
  return j;
}

PrepareReport report_of_manifest(const Json& manifest) { return report_from(manifest.at("counts")); }

PreparedData open_prepared(const std::string& folder) {
  const std::string path = folder + "/manifest.json";
  if (!std::filesystem::exists(path)) {
    throw InputError("data: '" + folder + "' holds no prepared data: no manifest.json\ntry: weft prepare TEXT... -o " + folder);
  }
  const Json j = read_json_file(path);
  try {
    if (j.at("format") != "weft.data.1") throw InputError("data: '" + path + "': unknown format: got " + j.at("format").dump() + ", want \"weft.data.1\"");
    PreparedData d;
    d.folder = folder;
    const auto name = [&](const char* split, const Json& value) {
      const std::string n = value.get<std::string>();
      if (n.empty() || n.find('/') != std::string::npos) throw InputError("data: '" + path + "': \"" + split + "\" names no file of the folder: got \"" + n + "\"");
      return folder + "/" + n;
    };
    d.train_prefix = name("train", j.at("train"));
    if (!j.at("val").is_null()) d.val_prefix = name("val", j.at("val"));
    d.tokenizer_path = name("tokenizer.file", j.at("tokenizer").at("file"));
    d.vocab_size = j.at("tokenizer").at("vocab_size").get<int64_t>();
    d.eod = j.at("tokenizer").at("eod").get<int32_t>();
    d.append_eod = j.at("append_eod").get<bool>();
    d.chat = j.value("chat", false);
    d.train = split_of(j.at("counts").at("train"));
    d.val = split_of(j.at("counts").at("val"));
    return d;
  } catch (const nlohmann::json::exception& error) {
    throw InputError("data: '" + path + "' is damaged: " + error.what());
  }
}

}  // namespace weft::data
