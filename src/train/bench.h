// How fast a model trains, as a part of what its own matrix products reach alone, measured in the same run.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "nn/model_config.h"
#include "ops/policy.h"
#include "train/op_times.h"
#include "train/settings.h"

namespace weft::train {

struct BenchOptions {
  nn::ModelConfig model;  // vocab_size set
  Precision precision = Precision::kBf16;
  LossLogits loss_logits = LossLogits::kOnce;
  int64_t seq_len = 1024, micro_batch = 4;
  int warm_up = 1, rounds = 3;
  bool profile = false;                  // one more step, with the time of each kind of operator
  std::function<double()> peer;          // another trainer's tokens/s, asked once a round; may be empty
  at::Device device = at::kCPU;
  ops::Policy policy;
};

struct GemmRate {
  int64_t n, k;
  double count, seconds, flops_per_second;  // of forward, dx and dw of `count` products on all tokens of a micro-batch; medians
};

struct Round {  // one after the other, so that what else loads the machine loads all of them
  double gemm_seconds;  // every product of a micro-batch, as often as the model has it, by the library alone
  double step_seconds;
  double peer_tokens_per_second;  // 0: none
};

// Figures are medians over the rounds; `fraction` and `peer_ratio` are medians of each round's own ratio.
struct BenchReport {
  std::vector<GemmRate> gemms;  // equal shapes once
  std::vector<Round> rounds;
  std::vector<OpTimes::Row> profile;  // of one step
  double profile_step_seconds = 0, profile_step_cpu_seconds = 0;
  double gemm_flops_per_second = 0;   // all their FLOPs over all their time
  double step_seconds = 0, tokens_per_second = 0;
  double model_gemm_flops = 0;        // of one step: 6 x n x k x count x tokens
  double flops_per_second = 0, fraction = 0;  // model_gemm_flops / step_seconds; over gemm_flops_per_second
  double peer_tokens_per_second = 0, peer_ratio = 0;
  double loss_first = 0, loss_last = 0;
  int64_t parameters = 0;
};
BenchReport bench_train(const BenchOptions&);
Json to_json(const BenchReport&);
std::string bench_text(const BenchReport&);

}  // namespace weft::train
