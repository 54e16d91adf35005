#include "data/tokenizers.h"

#include <fmt/format.h>

#include "base/error.h"

namespace weft::data {
namespace {

class Encoder final : public TextEncoder {
 public:
  Encoder(text::Tokenizer tokenizer, const std::string& eod) : tokenizer_(std::move(tokenizer)), eod_(eod_id(tokenizer_, eod)), file_(tokenizer_.to_file()) {}
  void encode(std::string_view text, std::vector<int32_t>& out) const override { tokenizer_.encode_append(text, {}, out); }
  int64_t vocab_size() const override { return tokenizer_.vocab_size(); }
  int32_t eod() const override { return eod_; }
  std::string file() const override { return file_.bytes; }
  std::string file_name() const override { return file_.name; }

 private:
  text::Tokenizer tokenizer_;
  int32_t eod_;
  text::Tokenizer::File file_;
};

}  // namespace

int32_t eod_id(const text::Tokenizer& tokenizer, const std::string& text) {
  if (!text.empty()) {
    const int32_t id = tokenizer.id_of(text);
    if (id < 0) throw ConfigError("tokenizer: no token \"" + text + "\": want the text of its end-of-document token");
    return id;
  }
  for (const char* name : {"<|endoftext|>", "<|end_of_text|>", "<eod>"}) {
    if (const int32_t id = tokenizer.id_of(name); id >= 0) return id;
  }
  return tokenizer.eos_id();
}

std::unique_ptr<TextEncoder> encoder_of(text::Tokenizer tokenizer, const std::string& eod) { return std::make_unique<Encoder>(std::move(tokenizer), eod); }

namespace {

template <class Trainer, class Options>
TokenizerMaker trained(const std::string& identity, const Options& options, std::function<void(int32_t, int32_t)> progress) {
  const std::string eod = options.special_tokens.empty() ? "" : options.special_tokens.front();
  std::string specials;
  for (const std::string& s : options.special_tokens) specials += fmt::format("{}:{} ", s.size(), s);
  TokenizerMaker maker;
  maker.identity = fmt::format("{} {}\n{}", identity, specials, options.pattern);
  maker.make = [options, progress, eod](const TextFeed& feed) {
    Trainer trainer(options);
    // Several texts a call, so that the trainer can count them on its threads.
    constexpr size_t kBatchBytes = size_t{8} << 20;
    std::vector<std::string> texts;
    size_t bytes = 0;
    const auto count = [&] {
      const std::vector<std::string_view> views(texts.begin(), texts.end());
      trainer.add(views);
      texts.clear();
      bytes = 0;
    };
    for (std::string text; feed(text); text.clear()) {
      bytes += text.size();
      texts.push_back(std::move(text));
      if (bytes >= kBatchBytes) count();
    }
    count();
    return encoder_of(trainer.train(progress), eod);
  };
  maker.load = [eod](const std::string& path) { return encoder_of(text::Tokenizer::load(path), eod); };
  return maker;
}

}  // namespace

TokenizerMaker trained_bpe(text::BpeTrainOptions options, std::function<void(int32_t, int32_t)> progress) {
  const std::string identity = fmt::format("bpe {} {} {} {}", options.vocab_size, options.min_frequency, options.max_token_bytes, options.memory_bytes);
  return trained<text::BpeTrainer>(identity, options, std::move(progress));
}

TokenizerMaker trained_unigram(text::UnigramTrainOptions options, std::function<void(int32_t, int32_t)> progress) {
  const std::string identity = fmt::format("unigram {} {} {} {} {} {}", options.vocab_size, options.max_piece_bytes, options.rounds_per_pruning,
                                           options.keep, options.seeds, options.memory_bytes);
  return trained<text::UnigramTrainer>(identity, options, std::move(progress));
}

TokenizerMaker given_tokenizer(const std::string& path, const std::string& eod) {
  auto tokenizer = std::make_shared<text::Tokenizer>(text::Tokenizer::load(path));
  TokenizerMaker maker;
  maker.identity = "given " + tokenizer->content_hash() + " " + eod;
  maker.needs_text = false;
  maker.make = [path, eod](const TextFeed&) { return encoder_of(text::Tokenizer::load(path), eod); };
  maker.load = [eod](const std::string& made) { return encoder_of(text::Tokenizer::load(made), eod); };
  return maker;
}

}  // namespace weft::data
