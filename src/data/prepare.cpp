#include "data/prepare.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <unordered_set>

#include "base/error.h"
#include "base/files.h"
#include "data/conversation.h"
#include "data/documents.h"
#include "data/ordered.h"
#include "data/prepare_state.h"
#include "data/token_weights.h"

namespace weft::data {
namespace {

// A block in memory costs its text twice, its tokens and the encoder's scratch.
constexpr int64_t kBytesPerTextByte = 12;
constexpr int64_t kFixedMemory = int64_t{64} << 20;

struct Hash128 {
  uint64_t low = 0, high = 0;
  bool operator==(const Hash128&) const = default;
};
struct HashOfHash { size_t operator()(const Hash128& h) const { return h.low; } };

struct Piece { int64_t tokens, bytes; bool begins, ends, held_out; int64_t replaced; Hash128 hash; };
struct Encoded { std::vector<int32_t> tokens; std::vector<float> weights; std::vector<Piece> pieces; int64_t file, lines = 0, raw_bytes; bool resumable; Position after; };

class Run {
 public:
  Run(const PrepareOptions& options, const TokenizerMaker& maker) : options_(options), maker_(maker) {}

  PrepareReport go() {
    check_options();
    corpus_ = list_corpus(options_.inputs, options_.output);
    hold_out_ = hold_out_of(corpus_, options_.hold_out_every);
    rules_ = {options_.key, hold_out_, options_.hold_out_every};
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
    std::filesystem::remove(in_output("tokenizer.json"), ignored);  // it may belong to other inputs
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
    return stamp_of(in_output("tokenizer.json")).bytes > 0 && holds(kTrainName, s.train) && holds(kValName, s.val) &&
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
      encoder_ = maker_.load(in_output("tokenizer.json"));
    } else {
      encoder_ = maker_.make(maker_.needs_text ? sample() : TextFeed());
      write_file_atomic(in_output("tokenizer.json"), encoder_->file());
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
        for_each_text(corpus_, rules_, block, [&](Text& text) {
          if (text.held_out) return;
          const double n = static_cast<double>(text.bytes.size());
          if (feed->taken <= share * feed->seen) feed->taken += n, feed->texts.push_back(std::move(text.bytes));
          feed->seen += n;
        });
        report_progress("tokenizer", block.after.file, block.after.offset);
      }
      out = std::move(feed->texts[feed->at++]);
      return true;
    };
  }

  Encoded encode(Block& block) const {
    Encoded out;
    out.file = block.file;
    out.raw_bytes = static_cast<int64_t>(block.bytes.size());
    out.after = block.after;
    if (options_.rows) {
      encode_rows(block, out);
      return out;
    }
    out.lines = for_each_text(corpus_, rules_, block, [&](Text& text) {
      Piece p{0, static_cast<int64_t>(text.bytes.size()), text.begins, text.ends, text.held_out, text.replaced, {}};
      if (options_.dedup) {
        const XXH128_hash_t h = XXH3_128bits(text.bytes.data(), text.bytes.size());
        p.hash = {h.low64, h.high64};
      }
      const size_t before = out.tokens.size();
      if (!text.bytes.empty()) encoder_->encode(text.bytes, out.tokens);
      p.tokens = static_cast<int64_t>(out.tokens.size() - before);
      out.pieces.push_back(p);
      out.resumable = text.ends;
    });
    block.bytes = {};
    return out;
  }

  // Each sequence of a row is a document; nothing runs on into the next block.
  void encode_rows(Block& block, Encoded& out) const {
    out.resumable = true;
    out.lines = for_each_line(corpus_, rules_, block, [&](const Line& line) {
      for (const TokenRow& row : options_.rows(line.raw, line.where)) {
        Piece p{static_cast<int64_t>(row.tokens.size()), row.bytes, true, true, line.held_out, 0, {}};
        if (options_.dedup) {
          const XXH128_hash_t h = XXH3_128bits(row.tokens.data(), row.tokens.size() * sizeof row.tokens[0]);
          p.hash = {h.low64, h.high64};
        }
        out.tokens.insert(out.tokens.end(), row.tokens.begin(), row.tokens.end());
        out.weights.insert(out.weights.end(), row.weights.begin(), row.weights.end());
        out.pieces.push_back(p);
      }
    });
    block.bytes = {};
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
    OrderedWork<Block, Encoded> work(options_.workers, [this](Block& b) { return encode(b); });
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
        if (done->resumable && (stopping || now - last_save > std::chrono::seconds(20))) save(), last_save = now;
        check_stop();
        if (full) break;
      }
    }
  }

  void write(const Encoded& e) {
    PrepareReport& r = state_.report;
    r.lines += e.lines;
    size_t next = 0;
    for (const Piece& p : e.pieces) {
      const size_t at = next;
      next += static_cast<size_t>(p.tokens);
      const std::span<const int32_t> tokens(e.tokens.data() + at, static_cast<size_t>(p.tokens));
      r.replaced_utf8 += p.replaced;
      r.documents_with_replacements += p.replaced > 0;
      if (p.begins && p.ends && !wanted(p)) continue;
      if (p.begins && !p.ends && options_.max_bytes > 0) filtering_ = true, ++r.filtered;
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

  bool wanted(const Piece& p) {  // of a whole document
    PrepareReport& r = state_.report;
    if (p.tokens == 0) return ++r.empty_documents, false;
    if (p.bytes < options_.min_bytes || (options_.max_bytes > 0 && p.bytes > options_.max_bytes)) return ++r.filtered, false;
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
    const ManifestFacts facts{state_.identity, encoder_->vocab_size(), encoder_->eod(), hex_hash(encoder_->file()), name_of(type_), hold_out_};
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
