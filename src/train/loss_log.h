// The files that a run writes as it goes: loss.tsv for machines that compare runs, metrics.jsonl for those that draw them.
// Both are cut back to the loaded step on resume, so that a run that was stopped leaves the files of one that was not.
#pragma once
#include <string>

#include "train/report.h"

namespace weft::train {

// step, consumed samples, loss and gradient norm, tab-separated; the floats in hexadecimal, so that equal means equal.
std::string loss_line(const StepReport&);
extern const char* const kLossHeader;

class LossLog final : public Callback {  // RUN/loss.tsv
 public:
  LossLog(std::string path, int64_t loaded_step);  // keeps the whole lines up to the step, in order; drops the rest
  Verdict on_step(const StepReport&) override;
  void before_save() override;  // fsync: a checkpoint never knows more steps than the log

 private:
  std::string path_;
};

class MetricsLog final : public Callback {  // RUN/metrics.jsonl: one object a step or evaluation
 public:
  MetricsLog(std::string path, int64_t loaded_step);
  Verdict on_step(const StepReport&) override;
  void on_eval(const EvalReport&) override;

 private:
  std::string path_;
};

}  // namespace weft::train
