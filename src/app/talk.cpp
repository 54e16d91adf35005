#include "ops/aten.h"

#include "app/talk.h"

#include <fmt/format.h>

#include <cstdio>
#include <iostream>

#include "base/error.h"
#include "base/log.h"
#include "base/signals.h"
#include "serve/text_output.h"

namespace weft::app {

Json Answer::json() const {
  return {{"prompt", prompt}, {"text", text}, {"tokens", tokens}, {"logprobs", logprobs}, {"finish_reason", finish}};
}

std::vector<Answer> answer(LoadedRun& run, const std::vector<std::string>& prompts, const TalkOptions& options, const ops::Policy& policy,
                           const std::string& device, const std::function<void(size_t, const std::string&)>& show) {
  std::vector<Answer> out(prompts.size());
  std::vector<serve::TextOutput> texts;
  infer::EngineConfig pool;
  pool.max_tokens = 0;
  std::vector<std::vector<int32_t>> ids;
  for (const std::string& p : prompts) {
    ids.push_back(run.tokenizer.encode(p));
    if (ids.back().empty() && run.tokenizer.eos_id() >= 0) ids.back().push_back(run.tokenizer.eos_id());  // nothing said: a new document
    pool.max_tokens = std::max<int64_t>(pool.max_tokens, static_cast<int64_t>(ids.back().size()) + options.sampling.max_tokens);
  }
  pool.sequences = static_cast<int>(std::min<size_t>(prompts.size(), 8));
  pool.max_tokens *= pool.sequences;
  infer::Engine engine(*run.model, policy, at::Device(device), pool);
  for (size_t i = 0; i < prompts.size(); ++i) {
    infer::Sampling s = options.sampling;
    if (run.tokenizer.eos_id() >= 0) s.stop_tokens.push_back(run.tokenizer.eos_id());
    engine.submit({static_cast<int64_t>(i), ids[i], s});
    texts.emplace_back(run.tokenizer, options.stops);
    out[i].prompt = prompts[i];
    if (options.echo && show) show(i, prompts[i]);
  }
  const auto give = [&](size_t i, const std::string& text) {
    out[i].text += text;
    if (show && !text.empty()) show(i, text);
  };
  while (!engine.idle()) {
    if (signals::requested() != 0) throw Interrupted("generate: interrupted");
    for (const infer::Emission& e : engine.step()) {
      const size_t i = static_cast<size_t>(e.id);
      if (texts[i].stopped()) continue;
      out[i].tokens.push_back(e.token), out[i].logprobs.push_back(e.logprob);
      const bool end = e.last && e.token == run.tokenizer.eos_id();
      if (!end) give(i, texts[i].push(e.token));
      if (e.last) give(i, texts[i].finish());
      if (texts[i].stopped() && !e.last) engine.abort(e.id);
      if (e.last || texts[i].stopped()) out[i].finish = end || texts[i].stopped() ? "stop" : "length";
    }
  }
  return out;
}

void talk(LoadedRun& run, const TalkOptions& options, const ops::Policy& policy, const std::string& device) {
  TalkOptions each = options;
  each.echo = false;
  for (std::string line;;) {
    fmt::print("{} ", log::paint(">", log::Colour::kGreen, 1));
    std::fflush(stdout);
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) continue;
    const signals::Guard guard;
    try {
      fmt::print("{}", log::paint(line, log::Colour::kBold, 1));
      answer(run, {line}, each, policy, device, [](size_t, const std::string& text) {
        fmt::print("{}", text);
        std::fflush(stdout);
      });
    } catch (const Interrupted&) {  // the answer, not the talk
    }
    fmt::print("\n\n");
    ++each.sampling.seed;
  }
  fmt::print("\n");
}

}  // namespace weft::app
