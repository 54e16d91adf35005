// weft generate RUN: text from a trained model.
#include "ops/aten.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "app/all_verbs.h"
#include "app/flags.h"
#include "app/run.h"
#include "app/talk.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/signals.h"
#include "base/text.h"

namespace weft::app {
namespace {

struct Options {
  std::string run, prompt_file;
  std::vector<std::string> prompts;
  TalkOptions talk;
  bool interactive = false, no_echo = false;
};

void check(const Options& f) {
  const infer::Sampling& s = f.talk.sampling;
  std::vector<Problem> problems;
  if (!(s.temperature >= 0 && s.temperature <= 100)) problems.push_back({"--temperature", fmt::format("got {}, want 0 to 100", s.temperature)});
  if (!(s.top_p > 0 && s.top_p <= 1)) problems.push_back({"--top-p", fmt::format("got {}, want above 0 and up to 1", s.top_p)});
  if (!(s.min_p >= 0 && s.min_p <= 1)) problems.push_back({"--min-p", fmt::format("got {}, want 0 to 1", s.min_p)});
  if (s.top_k < 0) problems.push_back({"--top-k", fmt::format("got {}, want 0 or more", s.top_k)});
  if (s.max_tokens < 1 || s.max_tokens > (1 << 20)) problems.push_back({"--max-tokens", fmt::format("got {}, want 1 to {}", s.max_tokens, 1 << 20)});
  config::throw_if_any(problems, "generate");
}

// A prompt a line; "\n" in a line is a line break.
std::vector<std::string> prompts_of(const std::string& file) {
  std::vector<std::string> out;
  for (std::string& line : split(read_file(file), '\n')) {
    if (line.empty()) continue;
    for (size_t at = 0; (at = line.find("\\n", at)) != std::string::npos; ++at) line.replace(at, 2, "\n");
    out.push_back(line);
  }
  if (out.empty()) throw InputError("generate: " + file + ": got no prompts, want one a line");
  return out;
}

int run(Options f, const Common& common) {
  check(f);
  if (!f.prompt_file.empty())
    for (const std::string& p : prompts_of(f.prompt_file)) f.prompts.push_back(p);
  if (f.prompts.empty() && !f.interactive && ::isatty(0) == 0)
    throw ConfigError("generate: got no prompt\n  try: -p \"some text\", --prompt-file FILE, or -i to talk");
  const std::string device = use_device(common);
  LoadedRun loaded = load_run(f.run, device);
  const ops::Policy policy = policy_for(device);
  log::info(fmt::format("{} at step {}", loaded.checkpoint, loaded.step));
  if (f.prompts.empty()) {
    talk(loaded, f.talk, policy, device);
    return 0;
  }
  f.talk.echo = !f.no_echo;
  const signals::Guard guard;
  std::function<void(size_t, const std::string&)> show;
  if (f.prompts.size() == 1 && common.json != "-")
    show = [](size_t, const std::string& text) {
      fmt::print("{}", text);
      std::fflush(stdout);
    };
  const std::vector<Answer> answers = answer(loaded, f.prompts, f.talk, policy, device, show);
  Json figures = {{"checkpoint", loaded.checkpoint}, {"step", loaded.step}, {"answers", Json::array()}};
  for (const Answer& a : answers) {
    figures["answers"].push_back(a.json());
    if (f.prompts.size() > 1 && common.json != "-") fmt::print("{}{}\n\n", f.talk.echo ? a.prompt : "", a.text);
  }
  if (show) fmt::print("\n");
  write_figures(common, figures);
  return 0;
}

}  // namespace

Action generate(Flags& flags, Common& common) {
  auto f = std::make_shared<Options>();
  infer::Sampling& s = f->talk.sampling;
  s.max_tokens = 128, s.temperature = 0.8, s.top_p = 0.95;
  flags.option("run", f->run, "A run's folder, or one of its checkpoints.").required();
  flags.option("-p,--prompt", f->prompts, "Text to go on from; may be repeated.").one_each();
  flags.option("--prompt-file", f->prompt_file, "A prompt a line; \\n stands for a line break.").value_name("FILE");
  flags.flag("-i,--interactive", f->interactive, "Talk: a prompt a line of standard input.");
  flags.flag("--no-echo", f->no_echo, "Only the continuation.");
  flags.option("-n,--max-tokens", s.max_tokens, "Tokens of a continuation at most.");
  flags.option("--temperature", s.temperature, "0 takes the likeliest token.");
  flags.option("--top-k", s.top_k, "Only the k likeliest tokens. 0: all.");
  flags.option("--top-p", s.top_p, "Only the likeliest tokens that make up this mass.");
  flags.option("--min-p", s.min_p, "Only tokens this likely, as a part of the likeliest.");
  flags.option("--seed", s.seed, "The same seed gives the same text.");
  flags.option("--stop", f->talk.stops, "End before this text; may be repeated.").one_each();
  add_compute_flags(flags, common);
  add_json_flag(flags, common);
  flags.footer("try: weft generate runs/demo -p \"template <class T>\"");
  return [f, &common] { return run(*f, common); };
}

}  // namespace weft::app
