// The settings of a run beside model, data order and optimizer. Fields marked Live may change when a run is resumed; a change of any
// other is refused.
#pragma once
#include <array>
#include <string>

#include "base/config.h"
#include "data/config.h"

namespace weft::train {

enum class Precision : uint8_t { kBf16, kFp32 };
constexpr std::array<const char*, 2> names(Precision) { return {"bf16", "fp32"}; }
enum class LossMode : uint8_t { kMean, kToken };
constexpr std::array<const char*, 2> names(LossMode) { return {"mean", "token"}; }
enum class LossLogits : uint8_t { kOnce, kAgain };
constexpr std::array<const char*, 2> names(LossLogits) { return {"once", "again"}; }
enum class OnNonFinite : uint8_t { kStop, kSkip };
constexpr std::array<const char*, 2> names(OnNonFinite) { return {"stop", "skip"}; }

using data::DataConfig;

struct TrainConfig {
  int64_t steps = 1000, batch = 32, micro_batch = 8;
  Precision precision = Precision::kBf16;
  LossMode loss_mode = LossMode::kToken;
  LossLogits loss_logits = LossLogits::kOnce;
  OnNonFinite on_non_finite = OnNonFinite::kStop;
  uint64_t seed = 1;
  double max_minutes = 0;
  bool deterministic = true;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("steps", self.steps, "Updates in all.", Range{1, 1e12}, Unit{"steps"}, Live{}, Alias{"train_iters"});
    visit("batch", self.batch, "Samples of one update.", Range{1, 1 << 24}, Unit{"samples"}, Alias{"global_batch_size"});
    visit("micro_batch", self.micro_batch, "Samples that go through the model at once; gradients of the others are added up.", Range{1, 1 << 20},
          Unit{"samples"}, Alias{"micro_batch_size"});
    visit("precision", self.precision, "bf16: compute in bf16, masters and gradient sums in fp32. fp32: everything in fp32.");
    visit("loss_mode", self.loss_mode, "token: mean over all tokens of an update. mean: mean of the micro-batches' means.");
    visit("loss_logits", self.loss_logits,
          "once: the loss makes its gradients with the logits of the forward, with up to 1 GB beside them on a GPU. again: the backward makes the logits again, one product more, in 64 MB.", Live{});
    visit("on_non_finite", self.on_non_finite, "An inf or nan in loss or gradients: stop with code 30, or skip the update.", Live{});
    visit("seed", self.seed, "Of initial weights, data order and dropout.");
    visit("max_minutes", self.max_minutes, "Save and end with code 75 after this time. 0: no limit.", Range{0, 1e7}, Unit{"min"}, Live{});
    visit("deterministic", self.deterministic, "Only kernels that give the same bits in every run.");
  }
  void check(std::vector<Problem>& out) const {
    if (batch % micro_batch != 0) out.push_back({"batch", "is not a multiple of micro_batch"});
  }
};

struct CheckpointConfig {
  int64_t every = 200;
  int keep_last = 2;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("every", self.every, "Steps between checkpoints. 0: only at the end.", Range{0, 1e12}, Unit{"steps"}, Live{});
    visit("keep_last", self.keep_last, "Newest checkpoints that stay.", Range{1, 1000}, Live{});
  }
};

struct EvalConfig {
  int64_t every = 200, samples = 256;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("every", self.every, "Steps between evaluations on the validation split; also at the end. 0: none.", Range{0, 1e12}, Unit{"steps"}, Live{});
    visit("samples", self.samples, "Validation samples of an evaluation. 0: all.", Range{0, 1e12}, Unit{"samples"}, Live{});
  }
};

struct LogConfig {
  double spike_factor = 8, spike_half_life = 50;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("spike_factor", self.spike_factor, "A loss that stands above its running mean by this many mean distances is reported. 0: never.", Range{0, 1e6}, Live{});
    visit("spike_half_life", self.spike_half_life, "Steps after which the running mean has half forgotten.", Range{1, 1e6}, Unit{"steps"}, Live{});
  }
};

}  // namespace weft::train
