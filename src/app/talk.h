// Prompts in, text out: what generate and demo share.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "app/loaded_run.h"
#include "base/json.h"
#include "infer/engine.h"

namespace weft::app {

struct TalkOptions {
  infer::Sampling sampling;
  std::vector<std::string> stops;
  bool echo = true;  // the prompt stands before its continuation
};

struct Answer {
  std::string prompt, text;
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::string finish;  // "stop" or "length"
  Json json() const;
};

// Continues every prompt, several at once. `show` gets text of prompt i as it comes; a single prompt streams.
std::vector<Answer> answer(LoadedRun&, const std::vector<std::string>& prompts, const TalkOptions&, const ops::Policy&, const std::string& device,
                           const std::function<void(size_t prompt, const std::string& text)>& show = {});

// A line from standard input is a prompt, until its end. Ctrl-C ends an answer, a second one the program.
void talk(LoadedRun&, const TalkOptions&, const ops::Policy&, const std::string& device);

}  // namespace weft::app
