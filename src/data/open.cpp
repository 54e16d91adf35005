#include "data/open.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "data/balanced_order.h"
#include "data/chat_format.h"
#include "data/gpt_dataset.h"
#include "data/prepare.h"
#include "data/prepare_state.h"
#include "data/row_dataset.h"
#include "data/side_streams.h"
#include "data/tokenizers.h"

namespace weft::data {
namespace {

using TokenizerPtr = std::shared_ptr<const text::Tokenizer>;

class Opener {
 public:
  Opener(const DataConfig& config, const RunShape& shape) : c_(config), shape_(shape) {}

  OpenedData open() {
    std::visit([&](const auto& source) { read(source); }, c_.source);
    if (!out_.order) out_.order = std::make_shared<EpochOrder>(out_.train->size(), shape_.seed, true);
    if (c_.fim.rate > 0) {
      if (out_.tokenizer_path.empty()) throw ConfigError("data.fim: fill in the middle needs a tokenizer\ntry: data.tokenizer");
      const TokenizerPtr t = tokenizer();
      out_.train = std::make_shared<FimDataset>(out_.train, t, c_.fim);
      if (out_.val) out_.val = std::make_shared<FimDataset>(out_.val, t, c_.fim);
      out_.description += fmt::format("; fill in the middle at rate {}", c_.fim.rate);
    }
    return std::move(out_);
  }

  std::shared_ptr<const Dataset> megatron(const MegatronSource& m, Split split) {
    GptDataConfig g;
    if (!m.blend.empty()) g.blend = parse_blend(m.blend);
    for (const auto& [words, s] : {std::pair(&m.train, Split::kTrain), std::pair(&m.valid, Split::kValid), std::pair(&m.test, Split::kTest)}) {
      if (!words->empty()) g.blend_per_split[static_cast<size_t>(s)] = parse_blend(*words);
    }
    g.split = m.split;
    const int64_t eval_iterations = (shape_.eval_samples + shape_.batch - 1) / shape_.batch;
    g.sizes = gpt_sample_counts(shape_.steps, shape_.batch, shape_.eval_every, eval_iterations);
    if (shape_.eval_samples == 0) g.sizes[1] = g.sizes[2] = std::nullopt;  // all of them
    g.seq_len = c_.seq_len;
    g.seed = m.seed;
    g.surplus = m.surplus;
    g.drop_last_partial_validation = m.drop_last_partial_validation;
    g.cache_folder = m.cache;
    g.tokenizer = m.identifiers.empty() ? Json::object() : parse_json(m.identifiers, "data.source.identifiers");
    g.samples.isolate_documents = m.isolate_documents;
    g.samples.eod_mask_loss = m.eod_mask_loss;
    if (!c_.tokenizer.empty()) {
      const TokenizerPtr t = tokenizer();
      g.samples.eod = eod_of(*t);
      g.samples.pad = t->pad_id() == g.samples.eod ? -1 : t->pad_id();
    } else if (m.eod_mask_loss) {
      throw ConfigError("data.source.eod_mask_loss: the end-of-document token is not known\ntry: data.tokenizer");
    }
    return open_gpt(g, split);
  }

 private:
  TokenizerPtr tokenizer() {
    if (!tokenizer_) {
      const std::string path = c_.tokenizer.empty() ? out_.tokenizer_path : c_.tokenizer;
      if (path.empty()) throw ConfigError("data.tokenizer: not set: this source needs one");
      tokenizer_ = std::make_shared<const text::Tokenizer>(text::Tokenizer::load(path));
      out_.tokenizer_path = path;
      out_.vocab_size = tokenizer_->vocab_size();
    }
    return tokenizer_;
  }
  int32_t eod_of(const text::Tokenizer& t) const { return eod_id(t, c_.eod); }

  void read(const PreparedSource& p) {
    if (c_.path.empty()) throw ConfigError("data.path: not set\n  try: weft prepare DIR -o data/name, then --set data.path=data/name");
    const PreparedData d = open_prepared(c_.path);
    out_.hash = hex_hash(read_file(c_.path + "/manifest.json"));
    out_.tokenizer_path = d.tokenizer_path;
    out_.vocab_size = d.vocab_size;
    const auto per_token = [](const SplitCounts& s) { return s.tokens > 0 ? static_cast<double>(s.bytes) / static_cast<double>(s.tokens) : 0; };
    out_.train_bytes_per_token = per_token(d.train), out_.val_bytes_per_token = per_token(d.val);
    const bool pack = p.fill == Fill::kPack || (p.fill == Fill::kAuto && d.chat);
    const auto set = [&](const std::string& prefix, bool keep_last) -> std::shared_ptr<const Dataset> {
      const auto tokens = std::make_shared<IndexedTokens>(IndexedTokens::open(prefix, IndexCheck::kStamped));
      if (!pack) return std::make_shared<TokenWindows>(tokens, c_.seq_len, keep_last);
      if (SideStreams::open(prefix, tokens->tokens(), IndexCheck::kStamped)) throw ConfigError("data.source.fill: pack: '" + prefix + "' has side streams, which packed documents do not carry: want stream");
      RowConfig r;
      r.seq_len = c_.seq_len, r.seed = shape_.seed, r.pad = std::max(d.eod, 0);
      return std::make_shared<RowDataset>(stored_source(tokens), r);
    };
    out_.train = set(d.train_prefix, false);
    if (!d.val_prefix.empty() && d.val.tokens > 1) out_.val = set(d.val_prefix, true);
    if (pack) out_.order = std::make_shared<EpochOrder>(out_.train->size(), shape_.seed, false);  // the rows are shuffled already
    out_.description = fmt::format("{}: {} tokens{}", c_.path, human_count(static_cast<double>(d.train.tokens)), pack ? ", documents packed" : "");
  }

  void read(const MegatronSource& m) {
    out_.train = megatron(m, Split::kTrain);
    if (!out_.train) throw ConfigError("data.source: nothing to train on\ntry: data.source.blend, or data.source.train");
    out_.val = shape_.eval_every > 0 ? megatron(m, Split::kValid) : nullptr;
    if (m.order == Order::kSingle) out_.order = std::make_shared<OnceOrder>(out_.train->size());
    else out_.order = std::make_shared<CyclicOrder>(out_.train->size(), shape_.micro_batch, shape_.ranks, true);
    std::string all = fmt::format("megatron {} {} {}\n", c_.seq_len, m.seed, m.split);
    for (const auto* words : {&m.blend, &m.train, &m.valid}) {
      if (words->empty()) continue;
      const Blend b = parse_blend(*words);
      for (size_t i = 0; i < b.prefixes.size(); ++i) {
        all += fmt::format("{} {} {}\n", b.weights.empty() ? 0 : b.weights[i], stamp_of(b.prefixes[i] + ".idx").bytes, stamp_of(b.prefixes[i] + ".bin").bytes);
      }
    }
    out_.hash = hex_hash(all);
    out_.description = fmt::format("Megatron's order: {} samples for training, {} for validation", out_.train->size(), out_.val ? out_.val->size() : 0);
  }

  std::shared_ptr<const RowDataset> rows(const std::vector<std::string>& files, const RowEncoder& encoder, RowConfig r, std::string* hash) {
    const auto source = std::make_shared<const Rows>(files);
    if (hash != nullptr) *hash = hex_hash(source->identity() + r.identity);
    r.seq_len = c_.seq_len, r.seed = shape_.seed;
    return std::make_shared<const RowDataset>(source, encoder, r);
  }
  void read_rows(const std::vector<std::string>& train, const std::vector<std::string>& valid, const RowEncoder& encoder, const RowConfig& r, const char* what) {
    if (train.empty()) throw ConfigError("data.source.train: not set: want files of JSON lines");
    const auto set = rows(train, encoder, r, &out_.hash);
    out_.description = fmt::format("{} tokenized on the fly: {} samples; rows that were cut: {}, skipped: {}", what, set->size(), set->truncated_rows(), set->skipped_rows());
    out_.train = set;
    if (!valid.empty()) out_.val = rows(valid, encoder, r, nullptr);
    out_.order = std::make_shared<EpochOrder>(out_.train->size(), shape_.seed, false);
  }
  void read(const ChatSource& s) {
    const TokenizerPtr t = tokenizer();
    const ChatFormat format = chat_format(*t, c_.tokenizer, s.chat_template);
    RowConfig r;
    r.align = s.align, r.block_rows = s.block_rows, r.workers = s.workers, r.cache_folder = s.cache;
    r.pad = std::max(t->pad_id(), 0);
    r.identity = t->content_hash() + " " + format.identity;
    read_rows(s.train, s.valid, chat_rows(t, format.render), r, "conversations");
  }
  void read(const TextSource& s) {
    const TokenizerPtr t = tokenizer();
    const int32_t eod = s.append_eod ? eod_of(*t) : -1;
    if (s.append_eod && eod < 0) throw ConfigError("data.source.append_eod: the tokenizer has no end-of-document token\ntry: data.eod");
    RowConfig r;
    r.fill = RowConfig::kStream, r.block_rows = s.block_rows, r.workers = s.workers, r.cache_folder = s.cache;
    r.pad = std::max(t->pad_id(), 0);
    r.identity = fmt::format("{} text {} {}", t->content_hash(), s.key, eod);
    read_rows(s.train, s.valid, text_rows(t, s.key, eod), r, "text");
  }
  void read(const MockSource& s) {
    MockConfig m = s.mock;
    m.seq_len = c_.seq_len, m.seed = shape_.seed;
    const auto set = std::make_shared<MockDataset>(m);
    out_.train = set;
    m.seed = ~m.seed;
    m.size = std::max<int64_t>(1, std::min<int64_t>(m.size, shape_.eval_samples > 0 ? shape_.eval_samples : 64));
    out_.val = std::make_shared<MockDataset>(m);
    out_.vocab_size = m.vocab_size;
    out_.description = set->describe();
    out_.hash = hex_hash(fmt::format("{} {} {} {} {}", set->describe(), m.mean, m.sigma, m.min_length, m.max_length));
  }

  const DataConfig& c_;
  const RunShape& shape_;
  TokenizerPtr tokenizer_;
  OpenedData out_;
};

}  // namespace

OpenedData open_data(const DataConfig& config, const RunShape& shape) { return Opener(config, shape).open(); }

std::shared_ptr<const SampleOrder> train_order(const DataConfig& config, const OpenedData& d, const RunShape& shape, int64_t consumed) {
  if (!config.balance || shape.ranks == 1) return d.order;
  return std::make_shared<BalancedOrder>(d.order, d.train, BalancedOrder::Shape{shape.batch, shape.micro_batch, shape.ranks}, consumed);
}

TokenizerFile tokenizer_file(const OpenedData& d) {
  if (d.tokenizer_path.empty()) return {};
  for (const char* name : kTokenizerNames)
    if (d.tokenizer_path.ends_with(name)) return {name, read_file(d.tokenizer_path)};
  auto [name, bytes] = text::Tokenizer::load(d.tokenizer_path).to_file();
  return {std::move(name), std::move(bytes)};
}

std::shared_ptr<const Dataset> open_split(const DataConfig& config, const RunShape& shape, const std::string& split) {
  std::shared_ptr<const Dataset> out;
  if (split == "test") {
    const auto* m = std::get_if<MegatronSource>(&config.source);
    if (m == nullptr) throw ConfigError("--split test: only a megatron source has one: want val or train");
    out = Opener(config, shape).megatron(*m, Split::kTest);
  } else {
    OpenedData d = open_data(config, shape);
    out = split == "train" ? d.train : d.val;
  }
  if (!out) throw InputError("data: there is no " + split + " split\ntry: --split train");
  return out;
}

}  // namespace weft::data
