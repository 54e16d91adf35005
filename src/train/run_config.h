// Every setting of a training run in one struct: what a recipe holds and a checkpoint keeps.
#pragma once
#include "dist/mesh.h"
#include "nn/model_config.h"
#include "optim/adamw.h"
#include "optim/schedule.h"
#include "train/settings.h"

namespace weft::train {

struct RunConfig {
  nn::ModelConfig model;
  DataConfig data;
  TrainConfig train;
  optim::OptimizerConfig optimizer;
  optim::ScheduleConfig schedule;
  CheckpointConfig checkpoint;
  EvalConfig eval;
  LogConfig log;
  MeshConfig parallel;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("model", self.model, "The model.");
    visit("data", self.data, "What it learns from.");
    visit("train", self.train, "Length, batch and numbers.");
    visit("optimizer", self.optimizer, "The update.");
    visit("schedule", self.schedule, "The learning rate.");
    visit("checkpoint", self.checkpoint, "When the state is saved.");
    visit("eval", self.eval, "When it is measured on text it does not learn from.");
    visit("log", self.log, "What is reported.");
    visit("parallel", self.parallel, "How the run is cut over ranks.");
  }
};

}  // namespace weft::train

namespace weft::config {  // built once, in run_config.cpp: some seconds

extern template std::unique_ptr<Node> bind(train::RunConfig&);

}  // namespace weft::config
