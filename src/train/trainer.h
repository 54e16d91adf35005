// One update after another: micro-batches forward and backward, gradients finished, norm, clip, optimizer, report.
//
// The state is what its parts hold: weights, optimizer states, buffers and a handful of numbers (RunState). Everything else,
// data order, dropout and learning rate, is a function of those numbers; so a resumed run gives the bits of an unbroken one.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "data/batch.h"
#include "dist/grad_arena.h"
#include "dist/mesh.h"
#include "nn/module.h"
#include "optim/adamw.h"
#include "optim/schedule.h"
#include "train/loss_scale.h"
#include "train/report.h"
#include "train/settings.h"

namespace weft::train {

struct RunState {
  int64_t step = 0, updates = 0;  // updates: steps that were not skipped
  int64_t consumed_samples = 0, consumed_tokens = 0;
};

struct TrainerOptions {
  optim::OptimizerConfig optimizer;
  optim::ScheduleConfig schedule;
  TrainConfig train;
  ops::Policy policy;
  at::Device device = at::kCPU;
  double bytes_per_token = 0;   // of the training text, for bits per byte
  double flops_per_token = 0;   // of the model's GEMMs, forward and backward
  double peak_flops = 0;        // measured
  int64_t bucket_elements = 40'000'000;
};

class Trainer {
 public:
  // `model` is materialized and outlives the trainer; its weights move into the optimizer's buffers.
  Trainer(nn::Module& model, const Mesh& mesh, const TrainerOptions&);
  ~Trainer();

  // One update. NonFiniteError names step, loss, norm and the first bad tensor; the weights are then those before the step.
  StepReport step(data::BatchStream&);
  // Until state().step is `until` or a callback says stop. `save` is called for kSave and kSaveAndStop.
  // Returns the verdict that ended it.
  Verdict run(data::BatchStream&, int64_t until, const std::function<void()>& save);
  void add(std::unique_ptr<Callback> callback) { callbacks_.push_back(std::move(callback)); }
  void tell(const EvalReport&);
  void before_save();

  // Forward and backward of one micro-batch without an update, to see what it takes; gradients are dropped.
  void rehearse(const data::Batch&);

  const RunState& state() const { return state_; }
  void set_state(const RunState& s) { state_ = s; }
  nn::Module& model() { return model_; }
  const optim::AdamW& optimizer() const { return *optimizer_; }
  optim::AdamW& optimizer() { return *optimizer_; }
  const GradArena& arena() const { return *arena_; }

 private:
  nn::CtxPtr context(const data::Batch&, nn::LossScale, int64_t microbatch, nn::StepStats*) const;
  std::string blame(const std::vector<data::Batch>&, bool loss_is_finite);

  nn::Module& model_;
  Mesh mesh_;
  TrainerOptions options_;
  std::unique_ptr<GradArena> arena_;
  std::unique_ptr<optim::AdamW> optimizer_;
  LossScale scale_;
  RunState state_;
  std::vector<std::unique_ptr<Callback>> callbacks_;
};

// What a batch is to a model: moved to the device, with its loss scale. Shared with evaluation.
std::shared_ptr<nn::Ctx> make_context(const data::Batch&, at::Device, const ops::Policy&);

}  // namespace weft::train
