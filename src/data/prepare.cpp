#include "data/prepare.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <unordered_set>

#include "base/error.h"
#include "base/files.h"
#include "data/conversation.h"
#include "data/ordered.h"
#include "data/prepare_encode.h"
#include "data/prepare_state.h"
#include "data/token_weights.h"

namespace weft::data {
namespace {

// A block in memory costs its text twice, its tokens and the encoder's scratch.
constexpr int64_t kBytesPerTextByte = 12;
constexpr int64_t kFixedMemory = int64_t{64} << 20;

class Run {
 public:
  Run(const PrepareOptions& options, const TokenizerMaker& maker) : options_(options), maker_(maker) {}

  PrepareReport go() {
    check_options();
    corpus_ = list_corpus(options_.inputs, options_.output);
    hold_out_ = hold_out_of(corpus_, options_.hold_out_every);
    rules_ = {options_.key, hold_out_, options_.hold_out_every};
    blocks_ = std::make_unique<BlockEncoder>(options_, corpus_, rules_);
    for (const std::string& f : blocks_->filters().fields())
      if (std::find(reader_.columns.begin(), reader_.columns.end(), f) == reader_.columns.end()) reader_.columns.push_back(f);
    for (const CorpusFile& f : corpus_.files) {
      if (options_.rows && f.format == Format::kText) throw InputError("prepare: '" + f.path + "': plain text holds no conversations: want .jsonl or .parquet");
    }
    const std::string identity = prepare_identity(options_, corpus_, maker_.identity);
    make_folders(options_.output);
    std::string holder;
    const auto lock = FileLock::try_take(in_output(".lock"), &holder);
    if (!lock) throw UnavailableError("prepare: '" + options_.output + "' is being written by another process: " + holder);
    if (auto done = finished_already(identity)) return *done;
    load_or_begin(identity);
    make_tokenizer();
    write_tokens();
    return finish();
  }

 private:
  std::string in_output(const std::string& name) const { return options_.output + "/" + name; }

  void check_options() {
    if (options_.inputs.empty()) throw ConfigError("prepare: no input: got nothing, want files or folders");
    if (options_.output.empty()) throw ConfigError("prepare: no output folder\ntry: -o data/name");
    if (options_.memory < 4 * kFixedMemory) throw ConfigError(fmt::format("prepare: --memory is too little: got {} bytes, want at least {}", options_.memory, 4 * kFixedMemory));
    if (options_.workers < 1 || options_.workers > 1024) throw ConfigError(fmt::format("prepare: --workers: got {}, want 1 to 1024", options_.workers));
    if (options_.hold_out_every < 0 || options_.hold_out_every == 1) throw ConfigError(fmt::format("prepare: hold-out: got one in {}, want 0 (none) or at least 2", options_.hold_out_every));
    if (options_.max_line_bytes == 0) options_.max_line_bytes = options_.memory / 16;
    if (options_.max_line_bytes > options_.memory / 16) throw ConfigError(fmt::format("prepare: --max-line {} needs --memory of at least {}: got {}", options_.max_line_bytes, 16 * options_.max_line_bytes, options_.memory));
    options_.sample_bytes = std::min(options_.sample_bytes, options_.memory / 4);
    reader_.max_line_bytes = options_.max_line_bytes;
    reader_.hold_out_every = options_.hold_out_every;
    reader_.columns = options_.rows ? conversation_columns() : std::vector<std::string>{options_.key};
    if (options_.max_bytes > reader_.block_bytes) throw ConfigError(fmt::format("prepare: --max-bytes: got {}, want at most {}", options_.max_bytes, reader_.block_bytes));
  }

  std::optional<PrepareReport> finished_already(const std::string& identity) {
    if (!std::filesystem::exists(in_output("manifest.json"))) return std::nullopt;
    const Json manifest = read_json_file(in_output("manifest.json"));
    if (manifest.value("identity", std::string()) == identity) {
      PrepareReport report = report_of_manifest(manifest);
      report.reused = true;
      std::error_code ignored;  // a run that was killed behind its last step leaves this
      std::filesystem::remove(in_output(kStateName), ignored);
      return report;
    }
    if (!options_.overwrite) {
      throw ConfigError("prepare: '" + options_.output + "' holds other data: its inputs or settings differ\ntry: another -o, or --overwrite");
    }
    std::filesystem::remove(in_output("manifest.json"));
    return std::nullopt;
  }

  void load_or_begin(const std::string& identity) {
    if (auto old = load_state(in_output(kStateName)); old && old->identity == identity && parts_hold(*old)) {
      state_ = std::move(*old);
      state_.report.resumed = true;
      return;
    }
    std::error_code ignored;
    std::filesystem::remove(in_output(kStateName), ignored);
    for (const char* name : kTokenizerNames) std::filesystem::remove(in_output(name), ignored);  // it may belong to other inputs
    state_ = {};
    state_.identity = identity;
    state_.report.skipped = corpus_.skipped;
    state_.report.files = static_cast<int64_t>(corpus_.files.size());
  }

  bool parts_hold(const PrepareState& s) const {
    const auto holds = [&](const char* name, const IndexedWriter::Mark& m) {
      return stamp_of(in_output(name) + ".bin.part").bytes >= m.bin_bytes && stamp_of(in_output(name) + ".lengths.part").bytes >= 4 * m.sequences &&
             stamp_of(in_output(name) + ".documents.part").bytes >= 8 * (m.boundaries - 1);
    };
    return stamp_of(in_output(s.tokenizer_file)).bytes > 0 && holds(kTrainName, s.train) && holds(kValName, s.val) &&
           (!options_.dedup || stamp_of(in_output(kHashesName)).bytes >= 16 * s.dedup_hashes);
  }

  void check_stop() {
    if (options_.stop != nullptr && options_.stop->load()) {
      throw Interrupted("prepare: stopped; run the same command again to go on");
    }
  }

  void report_progress(const char* stage, int64_t file, int64_t offset) {
    if (!options_.progress) return;
    while (files_before_ < file) bytes_before_ += corpus_.files[static_cast<size_t>(files_before_++)].bytes;
    const bool plain = file < static_cast<int64_t>(corpus_.files.size()) && corpus_.files[static_cast<size_t>(file)].packed == Packed::kPlain;
    const PrepareReport& r = state_.report;
    options_.progress({stage, bytes_before_ + (plain ? offset : 0), corpus_.bytes, r.train.documents + r.val.documents, r.train.tokens + r.val.tokens});
  }

  void make_tokenizer() {
    if (state_.report.resumed) {
      encoder_ = maker_.load(in_output(state_.tokenizer_file));
    } else {
      encoder_ = maker_.make(maker_.needs_text ? sample() : TextFeed());
      state_.tokenizer_file = encoder_->file_name();
      write_file_atomic(in_output(state_.tokenizer_file), encoder_->file());
    }
    files_before_ = bytes_before_ = 0;
    if (options_.append_eod && encoder_->eod() < 0) throw ConfigError("prepare: --append-eod: the tokenizer has no end-of-document token");
  }

  // Training texts spread evenly over the corpus: a document is taken while the share taken is not above the share wanted.
  TextFeed sample() {
    double size = 0;
    for (const CorpusFile& f : corpus_.files) size += static_cast<double>(f.bytes) * (f.packed == Packed::kPlain ? 1 : 4);
    const double share = std::min(1.0, static_cast<double>(options_.sample_bytes) / std::max(size, 1.0));
    struct Feed { CorpusReader reader; std::vector<std::string> texts; size_t at = 0; double seen = 0, taken = 0; };
    auto feed = std::make_shared<Feed>(Feed{CorpusReader(corpus_, reader_), {}});
    return [this, feed, share](std::string& out) {
      while (feed->at == feed->texts.size()) {
        check_stop();
        Block block;
        feed->texts.clear();
        feed->at = 0;
        if (feed->taken >= static_cast<double>(options_.sample_bytes) || !feed->reader.next(block)) return false;
        const auto wanted = [&](int64_t bytes) {
          const bool take = feed->taken <= share * feed->seen;
          feed->seen += static_cast<double>(bytes);
          return take;
        };
        blocks_->for_training(block, wanted, [&](std::string text) { feed->taken += static_cast<double>(text.size()), feed->texts.push_back(std::move(text)); });
        report_progress("tokenizer", block.after.file, block.after.offset);
      }
      out = std::move(feed->texts[feed->at++]);
      return true;
    };
  }

  void write_tokens() {
    type_ = token_type_for(encoder_->vocab_size());
    train_ = std::make_unique<IndexedWriter>(in_output(kTrainName), type_, state_.train);
    val_ = std::make_unique<IndexedWriter>(in_output(kValName), type_, state_.val);
    if (options_.rows) {
      const int width = bytes_of(type_);
      train_weights_ = std::make_unique<TokenWeightsWriter>(in_output(kTrainName), TokenWeightsWriter::Mark{state_.train.bin_bytes / width, state_.train_weights});
      val_weights_ = std::make_unique<TokenWeightsWriter>(in_output(kValName), TokenWeightsWriter::Mark{state_.val.bin_bytes / width, state_.val_weights});
    }
    open_hashes();
    save();
    CorpusReader reader(corpus_, reader_, state_.position);
    OrderedWork<Block, Encoded> work(options_.workers, [this](Block& b) { return blocks_->encode(b, *encoder_); });
    const int64_t budget = std::max<int64_t>(options_.memory - kFixedMemory - options_.memory / 4, kFixedMemory) / kBytesPerTextByte;
    std::deque<int64_t> sizes;
    int64_t in_flight = 0;
    bool more = true;
    auto last_save = std::chrono::steady_clock::now();
    while (more || work.pending() > 0) {
      if (more && (work.pending() == 0 || (in_flight < budget && work.pending() < 4 * options_.workers))) {
        Block block;
        more = reader.next(block);
        if (more) {
          sizes.push_back(static_cast<int64_t>(block.bytes.size()));
          in_flight += sizes.back();
          work.give(std::move(block));
        }
      }
      const bool full = !more || in_flight >= budget || work.pending() >= 4 * options_.workers;
      while (std::optional<Encoded> done = work.take(full && work.pending() > 0)) {
        in_flight -= sizes.front();
        sizes.pop_front();
        write(*done);
        report_progress("tokens", done->after.file, done->after.offset);
        const auto now = std::chrono::steady_clock::now();
        const bool stopping = options_.stop != nullptr && options_.stop->load();
        if (done->resumable && (stopping || now - last_save > std::chrono::duration<double>(options_.save_every_s))) save(), last_save = now;
        check_stop();
        if (full) break;
      }
    }
  }

  void write(const Encoded& e) {
    PrepareReport& r = state_.report;
    r.lines += e.lines;
    for (size_t f = 0; f < e.found.size(); ++f) state_.fields_found[blocks_->filters().fields()[f]] += e.found[f];
    size_t next = 0;
    for (const Piece& p : e.pieces) {
      const size_t at = next;
      next += static_cast<size_t>(p.tokens);
      const std::span<const int32_t> tokens(e.tokens.data() + at, static_cast<size_t>(p.tokens));
      r.replaced_utf8 += p.replaced;
      r.documents_with_replacements += p.replaced > 0;
      if (p.begins && p.ends && !wanted(p)) continue;
      if (p.begins && !p.ends) filtering_ = dropped(p);
      if (filtering_) {
        filtering_ = !p.ends;
        continue;
      }
      IndexedWriter& to = p.held_out ? *val_ : *train_;
      SplitCounts& counts = p.held_out ? r.val : r.train;
      HeldOutFile* file = p.held_out ? held_out(e.file) : nullptr;
      if (p.begins) to.add_sequence(tokens);
      else to.extend_sequence(tokens);
      const int32_t eod = encoder_->eod();
      const bool end = p.ends && options_.append_eod;
      if (end) to.extend_sequence({&eod, 1});
      if (p.ends) to.end_document();
      if (options_.rows) {
        TokenWeightsWriter& weights = p.held_out ? *val_weights_ : *train_weights_;
        weights.add(std::span(e.weights).subspan(at, static_cast<size_t>(p.tokens)));
        if (end) weights.add(kLearned);
      }
      counts.tokens += p.tokens + (end ? 1 : 0);
      counts.bytes += p.bytes;
      counts.documents += p.ends;
      for (int32_t id : tokens) counts.max_token = std::max<int64_t>(counts.max_token, id);
      if (end) counts.max_token = std::max<int64_t>(counts.max_token, eod);
      if (file != nullptr) file->tokens += p.tokens + (end ? 1 : 0), file->documents += p.ends;
    }
    state_.position = e.after;
  }

  bool dropped(const Piece& p) {  // counted under the first filter that drops it
    const bool too_short = p.ends && p.bytes < options_.min_bytes, too_long = options_.max_bytes > 0 && (!p.ends || p.bytes > options_.max_bytes);
    if (!too_short && !too_long && p.dropped_by < 0) return false;
    ++state_.report.filtered;
    ++state_.report.filtered_by[p.dropped_by >= 0 ? blocks_->filters().names()[static_cast<size_t>(p.dropped_by)]
                                : too_short       ? fmt::format("--min-bytes {}", options_.min_bytes)
                                                  : fmt::format("--max-bytes {}", options_.max_bytes)];
    return true;
  }

  bool wanted(const Piece& p) {  // of a whole document
    PrepareReport& r = state_.report;
    if (p.tokens == 0 && p.dropped_by < 0) return ++r.empty_documents, false;
    if (dropped(p)) return false;
    if (options_.dedup) {
      if (!seen_.insert(p.hash).second) return ++r.duplicates, false;
      if (static_cast<int64_t>(seen_.size()) * 40 > options_.memory / 4) {
        throw ConfigError(fmt::format("prepare: --dedup: {} different documents do not fit in a quarter of --memory\ntry: --memory {}", seen_.size(), 2 * options_.memory));
      }
      hashes_.write(&p.hash, 16);
      ++state_.dedup_hashes;
    }
    return true;
  }

  void open_hashes() {
    if (!options_.dedup) return;
    if (state_.dedup_hashes > 0) {
      const MappedFile old(in_output(kHashesName));
      for (int64_t i = 0; i < state_.dedup_hashes; ++i) {
        Hash128 h;
        std::memcpy(&h, old.bytes().data() + 16 * i, 16);
        seen_.insert(h);
      }
    }
    hashes_ = PartFile(in_output(kHashesName), 16 * state_.dedup_hashes);
  }

  HeldOutFile* held_out(int64_t file) {
    if (state_.held_out.empty() || state_.held_out.back().index != file) {
      state_.held_out.push_back({file, corpus_.files[static_cast<size_t>(file)].path});
    }
    return &state_.held_out.back();
  }

  void save() {
    state_.train = train_->sync();
    state_.val = val_->sync();
    if (options_.rows) state_.train_weights = train_weights_->sync().table, state_.val_weights = val_weights_->sync().table;
    if (options_.dedup) hashes_.sync();
    save_state(in_output(kStateName), state_);
  }

  PrepareReport finish() {
    PrepareReport& r = state_.report;
    if (r.train.documents == 0) {
      throw InputError(fmt::format("prepare: empty corpus: no document for training in {} files: {} empty, {} filtered, {} duplicates, {} held out", r.files,
                                   r.empty_documents, r.filtered, r.duplicates, r.val.documents));
    }
    if (r.val.documents == 0 && options_.hold_out_every > 0) r.warnings.push_back("the corpus is too small for a validation set");
    for (const auto& [field, n] : state_.fields_found)
      if (n == 0) r.warnings.push_back("no document has a \"" + field + "\", which --keep or --drop looks at");
    if (r.replaced_utf8 > 0) r.warnings.push_back(fmt::format("{} ill-formed UTF-8 sequences in {} documents became U+FFFD", r.replaced_utf8, r.documents_with_replacements));
    const auto finish_set = [&](const char* name, IndexedWriter& set, std::unique_ptr<TokenWeightsWriter>& weights) {
      set.finish();
      if (weights) weights->finish();
      write_block_hashes(in_output(name));
    };
    std::error_code ignored;
    for (const char* name : {kTrainName, kValName}) std::filesystem::remove(in_output(name) + ".weights", ignored);  // of other data
    finish_set(kTrainName, *train_, train_weights_);
    if (r.val.documents > 0) finish_set(kValName, *val_, val_weights_);
    else val_->discard();
    if (r.val.documents == 0 && val_weights_) val_weights_->discard();
    if (options_.dedup) hashes_.discard();
    const ManifestFacts facts{state_.identity, encoder_->vocab_size(), encoder_->eod(), state_.tokenizer_file, hex_hash(encoder_->file()), name_of(type_), hold_out_};
    write_json_file(in_output("manifest.json"), manifest_of(options_, corpus_, state_, facts));
    std::filesystem::remove(in_output(kStateName), ignored);
    return r;
  }

  static constexpr const char* kStateName = "prepare.state.json";
  static constexpr const char* kHashesName = "hashes.part";
  static constexpr float kLearned[1] = {1};
  PrepareOptions options_;
  const TokenizerMaker& maker_;
  CorpusReader::Options reader_;
  Corpus corpus_;
  HoldOut hold_out_ = HoldOut::kNone;
  DocumentRules rules_;
  PrepareState state_;
  std::unique_ptr<BlockEncoder> blocks_;
  std::unique_ptr<TextEncoder> encoder_;
  TokenType type_ = TokenType::kI32;
  std::unique_ptr<IndexedWriter> train_, val_;
  std::unique_ptr<TokenWeightsWriter> train_weights_, val_weights_;  // only of rows
  PartFile hashes_;
  std::unordered_set<Hash128, HashOfHash> seen_;
  bool filtering_ = false;
  int64_t files_before_ = 0, bytes_before_ = 0;
};

}  // namespace

PrepareReport prepare(const PrepareOptions& options, const TokenizerMaker& maker) { return Run(options, maker).go(); }

}  // namespace weft::data
