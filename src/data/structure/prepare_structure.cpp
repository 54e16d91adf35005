#include "data/structure/prepare_structure.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "base/error.h"
#include "base/files.h"
#include "data/ordered.h"
#include "data/prepare_state.h"
#include "data/structure/compile_flags.h"
#include "data/structure/documents.h"
#include "data/structure/shared_prefix.h"
#include "data/utf8.h"

namespace weft::data {
namespace {

constexpr const char* kSpool = "sources.part";
constexpr const char* kTokens = "tokens.part";
constexpr const char* kState = "structure.state.json";
constexpr int64_t kParserMemory = int64_t{256} << 20;  // of one worker; libclang's own is bound by its source alone

template <class Counts, class Visitor>
void visit_counts(Counts& c, Visitor&& visit) {
  visit("files", c.found.files), visit("functions", c.found.functions), visit("calls", c.found.calls), visit("not_parsed", c.found.not_parsed);
  visit("with_errors", c.found.with_errors), visit("errors", c.found.errors), visit("without_functions", c.found.without_functions);
  visit("macro_functions", c.found.macro_functions), visit("callees_left_out", c.left_out), visit("documents_cut", c.cut);
  visit("callees_of_other_split", c.held_back), visit("function_tokens", c.function_tokens);
}

class Run {
 public:
  Run(const PrepareOptions& options, const StructureOptions& structure, const TokenizerMaker& maker) : options_(options), structure_(structure), maker_(maker) {}

  StructureReport go() {
    check_options();
    library_ = clang::Library::open();
    list_files();
    std::vector<std::string> paths;
    for (const CorpusFile& f : corpus_.files) paths.push_back(f.path);
    flags_ = std::make_unique<CompileFlags>(options_.inputs, paths, structure_.compile_commands, structure_.arguments);
    report_.libclang = library_->version(), report_.compile_commands = flags_->database();
    bool headers = false;
    header_arguments_ = library_->header_arguments(&headers);
    if (!headers) report_.prepare.warnings.push_back("the compiler's own headers (stddef.h) were not found: system headers will not parse\n  try: apt-get install libclang-common-14-dev, or the one of your libclang's number");
    identity_ = identity();
    make_folders(options_.output);
    std::string holder;
    const auto lock = FileLock::try_take(in_output(".lock"), &holder);
    if (!lock) throw UnavailableError("prepare: '" + options_.output + "' is being written by another process: " + holder);
    if (finished_already()) return report_;
    parse();
    spool_ = std::make_unique<Spool>(in_output(kSpool));
    table_ = read_functions(*spool_, paths, options_.memory);
    report_.found = table_.counts, report_.faults = table_.faults;
    report_.prepare.replaced_utf8 = table_.counts.replaced, report_.prepare.documents_with_replacements = table_.counts.files_with_replacements;
    if (table_.counts.functions == 0) {
      throw InputError(fmt::format("prepare: no function with a body in {} C and C++ files ({} not parsed, {} with errors)\n  try: --compile-commands, or --clang-arg=-I... for headers that are not found",
                                   table_.counts.files, table_.counts.not_parsed, table_.counts.with_errors));
    }
    make_tokenizer();
    encode();
    write_documents(paths);
    return finish();
  }

 private:
  std::string in_output(const std::string& name) const { return options_.output + "/" + name; }

  void check_options() {
    if (options_.inputs.empty()) throw ConfigError("prepare: no input: got nothing, want files or folders");
    if (options_.output.empty()) throw ConfigError("prepare: no output folder\n  try: -o data/name");
    if (options_.memory < kParserMemory) throw ConfigError(fmt::format("prepare: --memory is too little: got {} bytes, want at least {} with --structure", options_.memory, kParserMemory));
    if (options_.workers < 1 || options_.workers > 1024) throw ConfigError(fmt::format("prepare: --workers: got {}, want 1 to 1024", options_.workers));
    if (options_.hold_out_every < 0 || options_.hold_out_every == 1) throw ConfigError(fmt::format("prepare: hold-out: got one in {}, want 0 (none) or at least 2", options_.hold_out_every));
    if (structure_.document_tokens != 0 && structure_.document_tokens < structure_.min_tokens) {
      throw ConfigError(fmt::format("prepare: --document-tokens: got {}, want 0 (no limit) or at least --min-tokens, {}", structure_.document_tokens, structure_.min_tokens));
    }
    options_.workers = static_cast<int>(std::clamp<int64_t>(options_.memory / kParserMemory, 1, options_.workers));
    options_.sample_bytes = std::min(options_.sample_bytes, options_.memory / 4);
  }

  void list_files() {
    Corpus all = list_corpus(options_.inputs, options_.output);
    corpus_.skipped = std::move(all.skipped);
    for (CorpusFile& f : all.files) {
      const bool is_cpp = cpp_language(f.path) != CppLanguage::kNone && f.packed == Packed::kPlain;
      if (f.path.ends_with(".cu") || f.path.ends_with(".cuh")) ++corpus_.skipped["CUDA (.cu, .cuh), which --structure cpp does not read"];
      else if (!is_cpp) ++corpus_.skipped["not C or C++"];
      else if (f.bytes > options_.memory / 64) ++corpus_.skipped["larger than a 64th of --memory"];
      else corpus_.bytes += f.bytes, corpus_.files.push_back(std::move(f));
    }
    if (corpus_.files.empty()) throw InputError(fmt::format("prepare: no C or C++ file in the inputs: {} files of other kinds", all.files.size()));
    hold_out_ = hold_out_of(corpus_, options_.hold_out_every);
    report_.prepare.skipped = corpus_.skipped;
    report_.prepare.files = static_cast<int64_t>(corpus_.files.size());
  }

  std::string identity() const {
    PrepareOptions o = options_;  // what has no meaning here must not make a difference
    o.dedup = true, o.key = "", o.min_bytes = o.max_bytes = 0, o.filters = {};
    std::string all = fmt::format("structure 1\n{}\n{}\n{}\n{}\n{}\n{}\n", prepare_identity(o, corpus_, maker_.identity), flags_->identity(), library_->version(), structure_.document_tokens,
                                  structure_.min_tokens, structure_.call_levels);
    for (const std::string& a : header_arguments_) all += a + "\n";
    return hex_hash(all);
  }

  bool finished_already() {
    const std::string path = in_output("manifest.json");
    if (!std::filesystem::exists(path)) return false;
    const Json manifest = read_json_file(path);
    if (manifest.value("identity", std::string()) == identity_ && manifest.contains("structure")) {
      report_.prepare = report_of_manifest(manifest);
      report_.prepare.reused = true;
      std::error_code ignored;  // a run that was killed behind its last step leaves these
      for (const char* name : {kState, kSpool, kTokens}) std::filesystem::remove(in_output(name), ignored);
      const Json& s = manifest.at("structure");
      visit_counts(report_, [&](const char* name, int64_t& value) { value = s.at(name).get<int64_t>(); });
      report_.faults = s.at("faults").get<std::vector<std::string>>();
      return true;
    }
    if (!options_.overwrite) throw ConfigError("prepare: '" + options_.output + "' holds other data: its inputs or settings differ\n  try: another -o, or --overwrite");
    std::filesystem::remove(path);
    std::error_code ignored;
    for (const char* name : {kTrainName, kValName}) {  // streams of the old tokens fit no new ones
      for (const char* end : {".idx.json", ".idx.json.checked", ".documents.jsonl"}) std::filesystem::remove(in_output(name) + end, ignored);
    }
    return false;
  }

  void check_stop() const {
    if (options_.stop != nullptr && options_.stop->load()) throw Interrupted("prepare: stopped; run the same command again to go on");
  }

  void show(const char* stage, int64_t bytes, int64_t total, int64_t documents, int64_t tokens) const {
    if (options_.progress) options_.progress({stage, bytes, total, documents, tokens});
  }

  void save(PartFile& spool, int64_t files) const {
    spool.sync();
    write_json_file(in_output(kState), {{"identity", identity_}, {"files", files}, {"bytes", spool.size()}});
  }

  // How many files an earlier run has parsed, and the length of its spool.
  std::pair<int64_t, int64_t> parsed_before() const {
    try {
      if (!std::filesystem::exists(in_output(kState))) return {0, 0};
      const Json j = read_json_file(in_output(kState));
      if (j.at("identity") != identity_) return {0, 0};
      const std::pair<int64_t, int64_t> done{j.at("files").get<int64_t>(), j.at("bytes").get<int64_t>()};
      return stamp_of(in_output(kSpool)).bytes >= done.second ? done : std::pair<int64_t, int64_t>{0, 0};
    } catch (const std::exception&) {  // a damaged state is no state: nothing is lost but time
      return {0, 0};
    }
  }

  std::string read_one(int64_t index) const {
    const std::string& path = corpus_.files[static_cast<size_t>(index)].path;
    const std::string raw = read_file(path);
    std::string text;
    const int64_t replaced = append_clean_utf8(raw.starts_with("\xEF\xBB\xBF") ? std::string_view(raw).substr(3) : std::string_view(raw), text);
    std::vector<std::string> arguments = flags_->of(path);
    arguments.insert(arguments.end(), header_arguments_.begin(), header_arguments_.end());
    const Prefixed prefixed = prefixes_->of(arguments);
    CppSource source = read_cpp(*library_, path, text, prefixed.arguments, prefixed.shared);
    if (prefixed.shared && !source.parsed) source = read_cpp(*library_, path, text, arguments);
    else if (prefixed.errors > 0) source.errors += prefixed.errors, source.first_error = prefixed.first_error;
    source.replaced = static_cast<int32_t>(replaced);
    return packed(source);
  }

  void parse() {
    auto [done, bytes] = parsed_before();
    report_.prepare.resumed = done > 0;
    PartFile spool(in_output(kSpool), bytes);
    prefixes_ = std::make_unique<SharedPrefixes>(*library_, in_output("prefixes.part"));
    const auto files = static_cast<int64_t>(corpus_.files.size());
    int64_t given = done, bytes_done = 0;
    for (int64_t i = 0; i < done; ++i) bytes_done += corpus_.files[static_cast<size_t>(i)].bytes;
    OrderedWork<int64_t, std::string> work(options_.workers, [this](int64_t& i) { return read_one(i); });
    auto last_save = std::chrono::steady_clock::now();
    while (done < files) {
      while (given < files && work.pending() < 2 * options_.workers) work.give(given++);
      Spool::append(spool, *work.take(true));
      bytes_done += corpus_.files[static_cast<size_t>(done++)].bytes;
      show("parse", bytes_done, corpus_.bytes, done, 0);
      const bool stopping = options_.stop != nullptr && options_.stop->load();
      if (const auto now = std::chrono::steady_clock::now(); stopping || now - last_save > std::chrono::duration<double>(options_.save_every_s)) save(spool, done), last_save = now;
      check_stop();
    }
    save(spool, done);
    prefixes_.reset();
  }

  void make_tokenizer() {
    encoder_ = maker_.make(maker_.needs_text ? sample() : TextFeed());
    std::error_code ignored;
    for (const char* name : kTokenizerNames) std::filesystem::remove(in_output(name), ignored);  // of other data
    write_file_atomic(in_output(encoder_->file_name()), encoder_->file());
    if (options_.append_eod && encoder_->eod() < 0) throw ConfigError("prepare: --append-eod: the tokenizer has no end-of-document token");
  }

  // Texts of training functions spread evenly: one is taken while the share taken is not above the share wanted.
  TextFeed sample() {
    double size = 0;
    for (const PieceRow& r : table_.rows) size += r.text_bytes;
    struct Feed { size_t row = 0; double seen = 0, taken = 0; };
    auto feed = std::make_shared<Feed>();
    return [this, feed, share = std::min(1.0, static_cast<double>(options_.sample_bytes) / std::max(size, 1.0))](std::string& out) {
      while (feed->row < table_.rows.size()) {
        const auto row = static_cast<int32_t>(feed->row++);
        const PieceRow& r = table_.rows[static_cast<size_t>(row)];
        if (r.text_bytes == 0 || held_out(table_, row, hold_out_, options_.hold_out_every)) continue;
        const bool take = feed->taken <= share * feed->seen;
        feed->seen += r.text_bytes;
        if (!take) continue;
        feed->taken += r.text_bytes;
        check_stop();
        out = r.text(*spool_);
        return true;
      }
      return false;
    };
  }

  void encode() {
    struct Job { int64_t record; };
    struct Done { std::string bytes; std::vector<int32_t> tokens; int64_t after; };
    const ByteAligned encoder(text::Tokenizer::load(in_output(encoder_->file_name())));
    PartFile out(in_output(kTokens), 0);
    OrderedWork<Job, Done> work(options_.workers, [&](Job& job) {
      Done done{{}, {}, job.record};
      const CppSource source = unpacked(spool_->record(done.after));
      for (const CppPiece& p : source.pieces) {
        const PieceTokens t = align(encoder, p);
        done.tokens.push_back(static_cast<int32_t>(t.ids.size()));
        append_packed(t, done.bytes);
      }
      return done;
    });
    size_t row = 0;
    for (int64_t at = 0; at < spool_->bytes() || work.pending() > 0;) {
      while (at < spool_->bytes() && work.pending() < 2 * options_.workers) {
        work.give({at});
        spool_->record(at);
      }
      const Done done = *work.take(true);
      for (int64_t begin = out.size(); const int32_t n : done.tokens) {
        table_.rows[row].at = begin, table_.rows[row].tokens = n;
        begin += n * kPackedTokenBytes, ++row;
        report_.function_tokens += n;
      }
      out.write(done.bytes.data(), done.bytes.size());
      show("tokens", done.after, spool_->bytes(), 0, report_.function_tokens);
      check_stop();
    }
    WEFT_CHECK(row == table_.rows.size(), "pieces of the spool");
    out.flush();
    tokens_ = std::move(out);
  }

  void write_documents(const std::vector<std::string>& paths) {
    const MappedFile tokens(in_output(kTokens));
    type_ = token_type_for(encoder_->vocab_size());
    train_ = std::make_unique<StructureWriter>(in_output(kTrainName), type_);
    val_ = std::make_unique<StructureWriter>(in_output(kValName), type_);
    DocumentMaker maker(table_, *spool_, tokens, paths, {structure_, hold_out_, options_.hold_out_every, options_.memory, options_.append_eod ? encoder_->eod() : -1});
    StructureWriter::Document document;
    const auto rows = static_cast<int32_t>(table_.rows.size());
    for (int32_t row = 0; row < rows; ++row) {
      const PieceRow& r = table_.rows[static_cast<size_t>(row)];
      if (r.kind == CppPiece::kPreamble) continue;
      if (maker.make(row, document, report_)) (maker.held_out(row) ? *val_ : *train_).add(document);
      if (row % 256 == 0 || row + 1 == rows) {
        const PrepareReport& p = report_.prepare;
        show("documents", row + 1, rows, p.train.documents + p.val.documents, p.train.tokens + p.val.tokens);
        check_stop();
      }
    }
  }

  StructureReport finish() {
    PrepareReport& r = report_.prepare;
    if (r.train.documents == 0) {
      throw InputError(fmt::format("prepare: no document for training from {} functions: {} shorter than {} tokens, {} duplicates, {} held out", report_.found.functions, r.filtered, structure_.min_tokens,
                                   r.duplicates, r.val.documents));
    }
    if (r.val.documents == 0 && options_.hold_out_every > 0) r.warnings.push_back("the corpus is too small for a validation set");
    if (r.replaced_utf8 > 0) r.warnings.push_back(fmt::format("{} ill-formed UTF-8 sequences in {} files became U+FFFD", r.replaced_utf8, r.documents_with_replacements));
    if (report_.found.not_parsed > 0) r.warnings.push_back(fmt::format("{} of {} files could not be parsed", report_.found.not_parsed, report_.found.files));
    train_->finish();
    if (r.val.documents > 0) val_->finish();
    else val_->discard();
    PrepareState state;
    state.report = r;
    const ManifestFacts facts{identity_, encoder_->vocab_size(), encoder_->eod(), encoder_->file_name(), hex_hash(encoder_->file()), name_of(type_), hold_out_};
    Json manifest = manifest_of(options_, corpus_, state, facts);
    Json s = Json::object();
    s["language"] = "cpp";
    s["libclang"] = report_.libclang;
    s["compile_commands"] = report_.compile_commands;
    s["arguments"] = structure_.arguments;
    s["document_tokens"] = structure_.document_tokens, s["min_tokens"] = structure_.min_tokens, s["call_levels"] = structure_.call_levels;
    visit_counts(report_, [&](const char* name, const int64_t& value) { s[name] = value; });
    s["faults"] = report_.faults;
    manifest["structure"] = std::move(s);
    write_json_file(in_output("manifest.json"), manifest);
    std::error_code ignored;
    for (const char* name : {kState, kSpool, kTokens}) std::filesystem::remove(in_output(name), ignored);
    return report_;
  }

  PrepareOptions options_;
  StructureOptions structure_;
  const TokenizerMaker& maker_;
  std::shared_ptr<const clang::Library> library_;
  std::unique_ptr<CompileFlags> flags_;
  std::unique_ptr<SharedPrefixes> prefixes_;  // while files are parsed
  std::vector<std::string> header_arguments_;
  Corpus corpus_;
  HoldOut hold_out_ = HoldOut::kNone;
  std::string identity_;
  StructureReport report_;
  std::unique_ptr<Spool> spool_;
  FunctionTable table_;
  std::unique_ptr<TextEncoder> encoder_;
  TokenType type_ = TokenType::kI32;
  PartFile tokens_;
  std::unique_ptr<StructureWriter> train_, val_;
};

}  // namespace

StructureReport prepare_structure(const PrepareOptions& options, const StructureOptions& structure, const TokenizerMaker& maker) {
  return Run(options, structure, maker).go();
}

}  // namespace weft::data
