// weft prepare INPUT... -o FOLDER: text to token files.
#include <fmt/format.h>

#include <chrono>

#include "app/all_verbs.h"
#include "app/flags.h"
#include "app/prepare_report.h"
#include "app/prepare_structure.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/log.h"
#include "base/signals.h"
#include "base/text.h"
#include "data/chat_format.h"
#include "data/inspect_streams.h"
#include "data/show.h"
#include "data/tokenizers.h"

namespace weft::app {
namespace {

struct Options {
  data::PrepareOptions prepare;
  text::BpeTrainOptions bpe;
  std::string tokenizer, eod, chat_template, model = "bpe";
  std::string memory = "1GiB", max_line;
  bool chat = false;
  int64_t show = 0;
  StructureFlags structure;
};

data::TokenizerMaker tokenizer_maker(const Options& o) {
  if (!o.tokenizer.empty()) return data::given_tokenizer(o.tokenizer, o.eod);
  if (o.model == "bpe") return data::trained_bpe(o.bpe, [](int32_t done, int32_t wanted) { log::progress(fmt::format("tokenizer: {} of {} merges", done, wanted)); });
  if (o.model != "unigram") throw ConfigError(fmt::format("--tokenizer-model: got '{}', want bpe or unigram", o.model));
  text::UnigramTrainOptions u;
  u.vocab_size = o.bpe.vocab_size, u.memory_bytes = o.bpe.memory_bytes, u.threads = o.bpe.threads;
  return data::trained_unigram(u, [](int32_t now, int32_t wanted) { log::progress(fmt::format("tokenizer: {} pieces, on the way to {}", now, wanted)); });
}

int64_t bytes_of(const char* flag, const std::string& text) {
  const auto bytes = parse_bytes(text);
  if (!bytes) throw ConfigError(fmt::format("{}: got '{}', want a size such as 512MiB or 2GiB", flag, text));
  return static_cast<int64_t>(*bytes);
}

void use_chat(Options& o) {
  if (o.tokenizer.empty()) throw ConfigError("prepare: --chat: conversations need the tokenizer of the model they are for\ntry: --tokenizer");
  const auto tokenizer = std::make_shared<const text::Tokenizer>(text::Tokenizer::load(o.tokenizer));
  const data::ChatFormat format = data::chat_format(*tokenizer, o.tokenizer, o.chat_template);
  log::info("chat template: " + format.name);
  o.prepare.rows = data::chat_rows(tokenizer, format.render);
  o.prepare.rows_identity = tokenizer->content_hash() + " " + format.identity;
}

void show(const Options& o, const data::PreparedData& made) {
  data::ShowPaint paint;
  if (log::colours(1)) paint = [](const std::string& text, bool learned) { return log::paint(text, learned ? log::Colour::kGreen : log::Colour::kDim, 1); };
  fmt::print("{}", o.structure.language.empty() ? data::show_documents(made, o.show, paint) : data::show_streams(made, o.show));
}

int run(Options o, const Common& common) {
  const auto begin = std::chrono::steady_clock::now();
  o.prepare.memory = o.bpe.memory_bytes = bytes_of("--memory", o.memory);
  if (!o.max_line.empty()) o.prepare.max_line_bytes = bytes_of("--max-line", o.max_line);
  if (o.chat || !o.chat_template.empty()) use_chat(o);
  if (o.prepare.workers == 0) o.prepare.workers = cpu::threads();
  o.bpe.threads = o.prepare.workers;
  o.prepare.progress = show_prepare_progress;
  const signals::Guard guard;
  o.prepare.stop = &signals::stop_flag();
  const data::TokenizerMaker maker = tokenizer_maker(o);
  Json structure = Json::object();
  const data::PrepareReport report = o.structure.language.empty() ? data::prepare(o.prepare, maker) : prepare_structure(o.prepare, o.structure, maker, structure);
  log::end_progress();
  const data::PreparedData made = data::open_prepared(o.prepare.output);
  print_prepare_report(report, made);
  if (o.show > 0) show(o, made);
  Json all = prepare_figures(report, made, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  all.update(structure);
  write_figures(common, all);
  return 0;
}

}  // namespace

Action prepare(Flags& flags, Common& common) {
  auto o = std::make_shared<Options>();
  o->prepare.workers = 0;
  flags.option("inputs", o->prepare.inputs, "Source trees, text files, .jsonl (.gz and .zst too), .parquet.").required();
  flags.option("-o,--output", o->prepare.output, "Folder for .bin/.idx, the tokenizer and manifest.json.").required();
  flags.option("--tokenizer", o->tokenizer, "Take this one instead of training one: any file or folder that inspect tokens reads.");
  flags.option("--tokenizer-model", o->model, "What to train: bpe or unigram, both over bytes.").part("tokenizer");
  flags.option("--eod", o->eod, "Text of the end-of-document token of --tokenizer; its own when left out.").part("tokenizer");
  flags.option("--vocab-size", o->bpe.vocab_size, "Of the tokenizer to train.").range(257, 1 << 24);
  flags.option("--key", o->prepare.key, "Where the text is in a JSON line, or its column.");
  flags.flag("--chat", o->chat, "Lines or rows are conversations: messages, conversations, instruction and output. The assistant's turns are learned.");
  flags.option("--chat-template", o->chat_template, "A Jinja file, or chatml; the one beside --tokenizer when left out. Means --chat.");
  flags.option("--show", o->show, "Print the tokens of so many documents, and what is learned of them, or their streams.").non_negative();
  flags.flag("--append-eod", o->prepare.append_eod, "End each document with the end-of-document token.");
  flags.flag("--dedup", o->prepare.dedup, "Drop documents whose text was seen before.").part("filters");
  flags.option("--min-bytes", o->prepare.min_bytes, "Drop shorter documents.").non_negative().part("filters");
  flags.option("--max-bytes", o->prepare.max_bytes, "Drop longer documents; 0 keeps them.").non_negative().part("filters");
  flags.option("--max-symbols", o->prepare.filters.max_symbols, "Drop documents with a larger share of characters that are no letter, digit or space.").part("filters");
  flags.option("--max-repeats", o->prepare.filters.max_repeated_lines, "Drop those where more of the bytes are in lines that stood there before.").part("filters");
  flags.option("--keep", o->prepare.filters.keep, "Only where [FIELD~]PATTERN is found; FIELD: of the JSON line, or path; else the text.").one_each().part("filters");
  flags.option("--drop", o->prepare.filters.drop, "Not where [FIELD~]PATTERN is found. Both may be repeated.").one_each().part("filters");
  flags.option("--hold-out", o->prepare.hold_out_every, "One file in this many is for validation; 0 for none.").non_negative();
  flags.option("--memory", o->memory, "The most memory to use.");
  flags.option("--max-line", o->max_line, "The longest JSON line; a sixteenth of --memory when left out.").part("limits");
  flags.option("--workers", o->prepare.workers, "Threads; 0 is what the machine allows. The result is the same.").range(0, 4096);
  flags.option("--save-every", o->prepare.save_every_s, "Seconds between the states that a killed run goes on from.").non_negative().part("limits");
  flags.flag("--overwrite", o->prepare.overwrite, "Replace other data in the folder.");
  add_structure_flags(flags, o->structure);
  add_json_flag(flags, common);
  flags.footer("JSON keys: wall_s train_documents train_tokens train_bytes val_... vocab_size replaced_utf8 filtered skipped reused");
  return [o, &common] { return run(*o, common); };
}

}  // namespace weft::app
