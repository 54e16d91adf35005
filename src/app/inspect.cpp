// weft inspect PATH: a run, a checkpoint, a prepared folder, a .bin/.idx pair or a tokenizer. --plot draws a run's curves.
// weft inspect tokens, template: inspect_tokens.cpp, inspect_template.cpp.
#include <fmt/format.h>

#include <array>
#include <filesystem>

#include "app/all_verbs.h"
#include "app/flags.h"
#include "app/inspect_parts.h"
#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "data/inspect.h"
#include "text/tokenizer.h"
#include "train/inspect.h"
#include "train/plot.h"
#include "train/run_folder.h"

namespace weft::app {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::vector<std::string> words;  // PATH, or data PATH
  std::string path, plot, tokenizer;
  bool statistics = false, data = false;
  int documents = 2;
  int64_t vocab_size = 0;
};

bool is_run(const std::string& path) { return fs::exists(path + "/checkpoints") || fs::exists(path + "/metrics.jsonl"); }
bool is_checkpoint(const std::string& path) {
  return fs::exists(path + "/manifest.json") && fs::path(path).filename().string().starts_with("step-");
}

bool is_tokenizer(const std::string& path) {
  for (const char* end : {".json", ".model", ".tiktoken", ".gguf", "vocab.txt"})
    if (path.ends_with(end)) return true;
  return false;
}

Json inspect_tokenizer(const std::string& path) {
  const text::Tokenizer t = text::Tokenizer::load(path);
  Json special = Json::object();
  for (int32_t id = 0; id < t.vocab_size(); ++id)
    if (t.is_special(id)) special[t.token_text(id)] = id;
  fmt::print("tokenizer {}\n  {} tokens, {} added; hash {}\n  special: {}\n", path, t.vocab_size(), t.added_tokens().size(), t.content_hash(), special.dump());
  return {{"path", path}, {"vocab_size", t.vocab_size()}, {"added", t.added_tokens().size()}, {"hash", t.content_hash()}, {"special", special}};
}

int run(Options o, const Common& common) {
  if (o.words.empty()) throw ConfigError("inspect: want a path, or data, tokens or template\n  try: weft help inspect");
  o.path = o.words.back();
  o.data = o.words.size() == 2;
  if (o.data && o.words[0] != "data") throw ConfigError(fmt::format("inspect: got '{}' before '{}', want data or nothing", o.words[0], o.path));
  if (!fs::exists(o.path) && !fs::exists(o.path + ".idx")) throw InputError(o.path + ": not found");
  if (!o.plot.empty()) {
    if (!is_run(o.path)) throw InputError(o.path + ": --plot wants a run's folder");
    write_file_atomic(o.plot, train::draw(fs::path(o.path).lexically_normal().string(), train::read_panels(o.path + "/metrics.jsonl")));
    fmt::print("wrote {}\n", o.plot);
    return 0;
  }
  Json figures;
  if (!o.data && (is_run(o.path) || is_checkpoint(o.path))) {
    figures = train::inspect_checkpoint(train::find_checkpoint(o.path), o.statistics);
    fmt::print("{}", train::checkpoint_text(figures));
  } else if (!o.data && is_tokenizer(o.path)) {
    figures = inspect_tokenizer(o.path);
  } else {
    data::InspectOptions d;
    d.tokenizer = o.tokenizer, d.show_documents = o.documents, d.vocab_size = o.vocab_size;
    figures = data::inspect_data(o.path, d);
    fmt::print("{}\n", figures.dump(2));
  }
  write_figures(common, figures);
  return 0;
}

}  // namespace

Action inspect(Flags& flags, Common& common) {
  auto o = std::make_shared<Options>();
  flags.option("path", o->words, "A run, a step-* checkpoint, a prepared folder, a .bin/.idx prefix or a tokenizer's file. data PATH: token files, whatever lies there.")
      .words(0, 2);
  flags.option("--plot", o->plot, "Draw loss, gradient norm and throughput of a run into this SVG file.");
  flags.flag("--statistics", o->statistics, "Checkpoints: mean, rms, least and largest value of each tensor.");
  flags.option("--tokenizer", o->tokenizer, "Token files: decode with this tokenizer.");
  flags.option("--vocab-size", o->vocab_size, "Token files: every id has to be below this; the tokenizer's size when left out.").non_negative();
  flags.option("--documents", o->documents, "Token files: documents to show.").non_negative();
  add_json_flag(flags, common);
  flags.footer("Every hash and rule is checked; what is broken is named, with code 65 (20 when no checkpoint of a run is valid).");
  const std::pair<std::string, Action> parts[] = {{"tokens", inspect_tokens(flags, common)}, {"template", inspect_template(flags, common)}};
  return [o, &flags, &common, parts = std::to_array(parts)] {
    for (const auto& [name, action] : parts)
      if (flags.has(name.c_str())) return action();
    return run(*o, common);
  };
}

}  // namespace weft::app
