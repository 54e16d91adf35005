// Callbacks that decide: stop on a signal or after a time, save now and then, tell of a spike, keep a person informed.
#pragma once
#include <chrono>
#include <cmath>

#include "train/report.h"
#include "train/settings.h"

namespace weft::train {

// Saves every n steps; saves and stops on SIGINT, SIGTERM or SIGUSR1 (a signals::Guard stands outside) and when time is up.
class Stopper final : public Callback {
 public:
  Stopper(const CheckpointConfig& checkpoint, double max_minutes) : every_(checkpoint.every), max_minutes_(max_minutes) {}
  Verdict on_step(const StepReport&) override;
  const std::string& why() const { return why_; }  // "SIGTERM", "the time limit of 3 min"; "" when it did not stop

 private:
  int64_t every_;
  double max_minutes_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::string why_;
};

// A loss is a spike when it stands above its running mean by more than `factor` times the running mean distance, and by more
// than 5 % of the mean. Judged after three half-lives of steps; a spike does not move the mean.
class Spikes final : public Callback {
 public:
  explicit Spikes(const LogConfig& c) : factor_(c.spike_factor), keep_(std::exp2(-1 / c.spike_half_life)), warmup_(static_cast<int64_t>(3 * c.spike_half_life)) {}
  Verdict on_step(const StepReport&) override;
  int64_t seen() const { return count_; }

 private:
  double factor_, keep_, mean_ = 0, distance_ = 0;
  int64_t warmup_, steps_ = 0, count_ = 0;
};

// "step 120/400  loss 3.21  1.42 bits/byte  norm 0.83  lr 1.0e-03  12.3 k tok/s  61 % of peak  1.2 GiB  ETA 1 min 10 s"
std::string progress_text(const StepReport&, double seconds_a_step);
class Progress final : public Callback {
 public:
  Verdict on_step(const StepReport&) override;
  void on_eval(const EvalReport&) override;

 private:
  double seconds_ = 0;  // running mean of a step
};

}  // namespace weft::train
