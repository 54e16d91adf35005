// weft demo: real text found on this machine, a small hybrid model, a minute and a half of training, then talk.
#include "ops/aten.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>

#include "app/all_verbs.h"
#include "app/demo.h"
#include "app/flags.h"
#include "app/machine.h"
#include "app/run.h"
#include "app/sample_check.h"
#include "app/talk.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/log.h"
#include "base/signals.h"
#include "data/tokenizers.h"
#include "train/session.h"

namespace weft::app {
namespace {

constexpr int kSamples = 8;
constexpr size_t kShown = 3;

struct Options {
  std::string corpus, folder;
  int64_t steps = 0;
  bool no_talk = false;
};

// Corpora that differ get folders of their own, so that one does not push the other out.
std::string data_folder(const Options& f) {
  std::string name = std::filesystem::weakly_canonical(f.corpus);
  for (char& c : name)
    if (c == '/' || c == ' ') c = '-';
  return f.folder + "/data" + name;
}

data::PreparedData prepare_corpus(const Options& f) {
  data::PrepareOptions o;
  o.inputs = {f.corpus};
  o.output = data_folder(f);
  o.append_eod = true;
  o.workers = cpu::threads();
  o.stop = &signals::stop_flag();
  o.progress = [](const data::PrepareProgress& p) {
    log::progress(fmt::format("{} {:.0f} %", p.stage, p.bytes_total > 0 ? 100.0 * static_cast<double>(p.bytes_done) / static_cast<double>(p.bytes_total) : 0));
  };
  text::BpeTrainOptions bpe;
  bpe.vocab_size = 2048, bpe.threads = o.workers;
  const signals::Guard guard;
  const data::PrepareReport r = data::prepare(o, data::trained_bpe(bpe));
  log::end_progress();
  const data::PreparedData made = data::open_prepared(o.output);
  log::info(fmt::format("corpus {}: {} documents, {} tokens of {} bytes each{}", f.corpus, r.train.documents + r.val.documents,
                        r.train.tokens + r.val.tokens, fmt::format("{:.2f}", static_cast<double>(r.train.bytes) / static_cast<double>(r.train.tokens)),
                        r.reused ? " (made before)" : ""));
  return made;
}

train::SessionResult train_model(const Options& f, const data::PreparedData& made, const std::string& device) {
  train::SessionOptions o = session_options(demo_config(made.folder, static_cast<int>(made.vocab_size)), device);
  if (f.steps > 0) o.config.train.steps = f.steps;
  o.run = f.folder + "/run";
  std::filesystem::remove_all(o.run);  // the demo always shows a training from the start
  o.resume_command = "weft demo";
  return train::run_session(o);
}

int run(Options f, const Common& common) {
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  const std::string device = use_device(common);
  if (f.corpus.empty()) f.corpus = find_corpus();
  if (f.folder.empty()) f.folder = weft_home() + "/demo";
  const data::PreparedData made = prepare_corpus(f);
  const double before_training = elapsed();
  const train::SessionResult r = train_model(f, made, device);

  LoadedRun loaded = load_run(f.folder + "/run", device);
  TalkOptions talk_options;
  talk_options.sampling.max_tokens = 96, talk_options.sampling.temperature = 0.5, talk_options.sampling.top_p = 0.9;
  const ops::Policy policy = policy_for(device);
  Json samples = Json::array();
  SampleCheck check;
  const std::set<std::string> known = identifiers_of_corpus(made.folder);
  for (const Answer& a : answer(loaded, demo_prompts(made.folder, kSamples), talk_options, policy, device)) {
    check.add(a.text, a.finish == "length", a.tokens, known);
    samples.push_back({{"prompt", a.prompt}, {"text", a.text}});
    if (samples.size() <= kShown)
      fmt::print("\n{}\n{}{}\n", log::paint("--- a beginning from held-out text, and how the model goes on", log::Colour::kDim, 1),
                 log::paint(a.prompt, log::Colour::kBold, 1), a.text);
  }
  fmt::print("\n{} samples: of {} identifiers of four letters or more {:.0f} % occur in the corpus; longest loop: {} tokens\n", samples.size(), check.written,
             100 * check.known_fraction(), check.longest_loop);
  fmt::print("validation: {:.3f} -> {:.3f} bits per byte in {:.0f} s of training; the run is {}\n", r.first_val.bits_per_byte, r.last_val.bits_per_byte,
             r.wall_s, f.folder + "/run");
  Json figures = check.json();
  figures.update({{"wall_s", elapsed()},
                  {"first_loss_s", before_training + r.first_loss_s},
                  {"first_val_bits_per_byte", r.first_val.bits_per_byte},
                  {"last_val_bits_per_byte", r.last_val.bits_per_byte},
                  {"tokens_per_second", r.tokens_per_second},
                  {"memory_peak_bytes", cpu::memory_peak()},
                  {"samples", samples}});
  write_figures(common, figures);
  if (::isatty(0) != 0 && !f.no_talk) {
    fmt::print("\nNow you: begin a line of code, the model goes on. Ctrl-D ends it.\n");
    talk_options.sampling.max_tokens = 64;
    talk(loaded, talk_options, policy, device);
  }
  return 0;
}

}  // namespace

Action demo(Flags& flags, Common& common) {
  auto f = std::make_shared<Options>();
  flags.option("--corpus", f->corpus, "A folder or file of text; the C++ standard library headers of this machine when left out.");
  flags.option("--folder", f->folder, "Where data and run are kept; WEFT_HOME/demo when left out.");
  flags.option("--steps", f->steps, "Training steps, for a shorter or longer demo.").range(1, 1 << 20);
  flags.flag("--no-talk", f->no_talk, "End after the samples.");
  add_compute_flags(flags, common);
  add_json_flag(flags, common);
  flags.footer("JSON keys: wall_s first_loss_s first_val_bits_per_byte last_val_bits_per_byte tokens_per_second memory_peak_bytes samples, and of the\n"
             "samples identifiers identifiers_known identifiers_known_fraction identifiers_unknown longest_loop_tokens");
  return [f, &common] { return run(*f, common); };
}

}  // namespace weft::app
