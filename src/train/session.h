// A whole run: folder, data, model, resume or start, steps with evaluations and checkpoints, end.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "nn/module.h"
#include "train/report.h"
#include "train/run_config.h"

namespace weft::train {

struct SessionOptions {
  std::string run;  // folder
  RunConfig config;
  std::function<double(Precision)> peak_flops;                         // measures the machine; may be empty
  at::Device device = at::kCPU;
  ops::Policy policy;
  bool allow_inexact = false;   // go on although the bits will differ
  std::string resume_command;   // printed when the run is stopped
  bool tokenizer_in_run = true;  // copies the data's tokenizer
  std::vector<Callback*> callbacks;  // of the caller; they outlive the run
};

struct SessionResult {
  int64_t steps = 0, consumed_samples = 0, consumed_tokens = 0, resumed_from = 0;
  double wall_s = 0, first_loss_s = 0;  // from the call; first_loss_s: until the first step's report
  double first_loss = 0, last_loss = 0, tokens_per_second = 0, peak_fraction = 0;  // the two rates: mean over this call's steps
  EvalReport first_val, last_val;       // samples is 0 where there was none
  std::string checkpoint;               // the last one
};

// The decoder that the settings describe, in memory; `fill` false: its numbers are about to be loaded.
std::unique_ptr<nn::Module> build_model(const RunConfig&, at::Device, bool fill);

// Done: returns. Stopped by a signal or the time limit: saves, and throws SavedOnSignal with the resume command.
// ConfigError (settings differ from the run's), UnavailableError (lock), InputError, CheckpointError, IoError, NonFiniteError,
// OutOfMemoryError.
SessionResult run_session(const SessionOptions&);

}  // namespace weft::train
