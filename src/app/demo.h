// What the demo does, in parts that tests can call.
#pragma once
#include <string>
#include <vector>

#include "train/run_config.h"

namespace weft::app {

// The newest C++ standard library headers on this machine. UnavailableError when no compiler brought any.
std::string find_corpus();

// The demo's run: a small hybrid with every branch kind, sized to learn a few megabytes of source text in about 90 s on two cores.
train::RunConfig demo_config(const std::string& data, int vocab_size);

// Beginnings for samples, one to `count`: text from the middle of held-out documents, cut at a line's end; a new document where
// none is long enough. The same for the same data.
std::vector<std::string> demo_prompts(const std::string& data, int count);

}  // namespace weft::app
