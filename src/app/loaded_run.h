// A trained model with its tokenizer, ready to be asked.
#pragma once
#include <memory>
#include <string>

#include "nn/decoder.h"
#include "text/tokenizer.h"
#include "train/run_config.h"

namespace weft::app {

struct LoadedRun {
  train::RunConfig config;
  std::unique_ptr<nn::Decoder> model;
  text::Tokenizer tokenizer;
  std::string checkpoint;  // its folder
  int64_t step = 0;
};

// `path` is a run folder (its newest valid checkpoint) or one checkpoint. InputError, CheckpointError.
LoadedRun load_run(const std::string& path, const std::string& device);

}  // namespace weft::app
