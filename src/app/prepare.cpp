// weft prepare INPUT... -o FOLDER: text to token files.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>

#include "app/all_verbs.h"
#include "app/prepare_structure.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/log.h"
#include "base/signals.h"
#include "base/text.h"
#include "data/tokenizers.h"

namespace weft::app {
namespace {

struct Options {
  data::PrepareOptions prepare;
  text::BpeTrainOptions bpe;
  std::string tokenizer, eod, model = "bpe";
  std::string memory = "1GiB";
  StructureFlags structure;
};

void show_progress(const data::PrepareProgress& p) {
  const double part = p.bytes_total > 0 ? 100.0 * static_cast<double>(p.bytes_done) / static_cast<double>(p.bytes_total) : 100;
  log::progress(fmt::format("{} {:3.0f} %  {}  {} documents  {} tokens", p.stage, part, human_bytes(static_cast<uint64_t>(p.bytes_done)),
                            human_count(static_cast<double>(p.documents)), human_count(static_cast<double>(p.tokens))));
}

void print_report(const data::PrepareReport& r, const data::PreparedData& made) {
  for (const std::string& w : r.warnings) log::warn(w);
  if (r.reused) fmt::print("everything was there already\n");
  if (r.resumed) fmt::print("went on from a stopped run\n");
  fmt::print("{:<6} {:>12} {:>14} {:>14}\n", "", "documents", "tokens", "bytes");
  for (const auto& [name, c] : {std::pair("train", r.train), std::pair("val", r.val)})
    fmt::print("{:<6} {:>12} {:>14} {:>14}\n", name, c.documents, c.tokens, c.bytes);
  fmt::print("vocabulary {}; {} files, {} lines", made.vocab_size, r.files, r.lines);
  for (const auto& [what, n] : {std::pair("empty documents", r.empty_documents), std::pair("duplicates dropped", r.duplicates),
                                std::pair("outside the length filters", r.filtered)})
    if (n > 0) fmt::print("; {} {}", n, what);
  if (r.replaced_utf8 > 0) fmt::print("; {} bytes of invalid UTF-8 replaced in {} documents", r.replaced_utf8, r.documents_with_replacements);
  fmt::print("\n");
  for (const auto& [reason, n] : r.skipped) fmt::print("skipped {} files: {}\n", n, reason);
  fmt::print("wrote {}\n", made.folder);
}

Json figures(const data::PrepareReport& r, const data::PreparedData& made, double seconds) {
  Json out = Json::object();
  out["wall_s"] = seconds;
  for (const auto& [name, c] : {std::pair("train", r.train), std::pair("val", r.val)}) {
    out[std::string(name) + "_documents"] = c.documents;
    out[std::string(name) + "_tokens"] = c.tokens;
    out[std::string(name) + "_bytes"] = c.bytes;
  }
  out["vocab_size"] = made.vocab_size;
  out["replaced_utf8"] = r.replaced_utf8;
  out["skipped"] = r.skipped;
  out["reused"] = r.reused;
  return out;
}

data::TokenizerMaker tokenizer_maker(const Options& o) {
  if (!o.tokenizer.empty()) return data::given_tokenizer(o.tokenizer, o.eod);
  if (o.model == "bpe") return data::trained_bpe(o.bpe, [](int32_t done, int32_t wanted) { log::progress(fmt::format("tokenizer: {} of {} merges", done, wanted)); });
  if (o.model != "unigram") throw ConfigError(fmt::format("--tokenizer-model: got '{}', want bpe or unigram", o.model));
  text::UnigramTrainOptions u;
  u.vocab_size = o.bpe.vocab_size, u.memory_bytes = o.bpe.memory_bytes, u.threads = o.bpe.threads;
  return data::trained_unigram(u, [](int32_t now, int32_t wanted) { log::progress(fmt::format("tokenizer: {} pieces, on the way to {}", now, wanted)); });
}

int run(Options o, const Common& common) {
  const auto begin = std::chrono::steady_clock::now();
  const auto memory = parse_bytes(o.memory);
  if (!memory) throw ConfigError(fmt::format("--memory: got '{}', want a size such as 512MiB or 2GiB", o.memory));
  o.prepare.memory = o.bpe.memory_bytes = static_cast<int64_t>(*memory);
  if (o.prepare.workers == 0) o.prepare.workers = cpu::threads();
  o.bpe.threads = o.prepare.workers;
  o.prepare.progress = show_progress;
  const signals::Guard guard;
  o.prepare.stop = &signals::stop_flag();
  const data::TokenizerMaker maker = tokenizer_maker(o);
  Json structure = Json::object();
  const data::PrepareReport report = o.structure.language.empty() ? data::prepare(o.prepare, maker) : prepare_structure(o.prepare, o.structure, maker, structure);
  log::end_progress();
  const data::PreparedData made = data::open_prepared(o.prepare.output);
  print_report(report, made);
  Json all = figures(report, made, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  all.update(structure);
  write_figures(common, all);
  return 0;
}

}  // namespace

Action prepare(CLI::App& app, Common& common) {
  auto o = std::make_shared<Options>();
  o->prepare.workers = 0;
  app.add_option("inputs", o->prepare.inputs, "Source trees, text files, .jsonl; .gz and .zst too.")->required();
  app.add_option("-o,--output", o->prepare.output, "Folder for .bin/.idx, tokenizer.json and manifest.json.")->required();
  app.add_option("--tokenizer", o->tokenizer, "Take this tokenizer instead of training one.");
  app.add_option("--tokenizer-model", o->model, "What to train: bpe or unigram, both over bytes.");
  app.add_option("--eod", o->eod, "Text of the end-of-document token of --tokenizer; its own when left out.");
  app.add_option("--vocab-size", o->bpe.vocab_size, "Of the tokenizer to train.")->check(CLI::Range(257, 1 << 24));
  app.add_option("--key", o->prepare.key, "Where the text is in a JSON line.");
  app.add_flag("--append-eod", o->prepare.append_eod, "End each document with the end-of-document token.");
  app.add_flag("--dedup", o->prepare.dedup, "Drop documents whose text was seen before.");
  app.add_option("--min-bytes", o->prepare.min_bytes, "Drop shorter documents.")->check(CLI::NonNegativeNumber);
  app.add_option("--max-bytes", o->prepare.max_bytes, "Drop longer documents; 0 keeps them.")->check(CLI::NonNegativeNumber);
  app.add_option("--hold-out", o->prepare.hold_out_every, "One file in this many is for validation; 0 for none.")->check(CLI::NonNegativeNumber);
  app.add_option("--memory", o->memory, "The most memory to use.");
  app.add_option("--workers", o->prepare.workers, "Threads; 0 is what the machine allows. The result is the same.")->check(CLI::Range(0, 4096));
  app.add_flag("--overwrite", o->prepare.overwrite, "Replace other data in the folder.");
  add_structure_flags(app, o->structure);
  add_json_flag(app, common);
  app.footer("JSON keys: wall_s train_documents train_tokens train_bytes val_... vocab_size replaced_utf8 skipped reused; with --structure also\n"
             "functions calls files files_without_functions files_with_errors files_not_parsed function_tokens duplicates libclang");
  return [o, &common] { return run(*o, common); };
}

}  // namespace weft::app
