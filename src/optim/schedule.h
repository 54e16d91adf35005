// The learning rate as a function of the step, nothing else: resuming needs no state.
//
//   warm-up     lr(s) = peak s / warmup                          for s <= warmup
//   constant    peak
//   linear      min + (peak - min) (1 - r),  r = (s - warmup) / (end - warmup)
//   cosine      min + (peak - min) (cos(pi r) + 1) / 2           (Loshchilov and Hutter 2017)
//   inv_sqrt    max(min, peak sqrt(warmup / s))                  (Vaswani et al. 2017)
//   wsd         peak until end - decay_steps, then over decay_steps to min (Hu et al. 2024), with r over that part:
//               linear 1 - r, cosine, exponential 2 0.5^r - 1, minus_sqrt 1 - sqrt(r)
// Steps count from 1: the first update already moves. Past the end: min (constant: peak).
#pragma once
#include <array>
#include <cstdint>

#include "base/config.h"

namespace weft::optim {

enum class Decay : uint8_t { kConstant, kLinear, kCosine, kInvSqrt, kWsd };
constexpr std::array<const char*, 5> names(Decay) { return {"constant", "linear", "cosine", "inv_sqrt", "wsd"}; }
enum class WsdShape : uint8_t { kLinear, kCosine, kExponential, kMinusSqrt };
constexpr std::array<const char*, 4> names(WsdShape) { return {"linear", "cosine", "exponential", "minus_sqrt"}; }

struct ScheduleConfig {
  Decay decay = Decay::kWsd;
  double lr = 1e-3, min_lr = 0;
  int64_t warmup_steps = 0;
  double warmup_fraction = 0.02;
  int64_t decay_steps = 0;
  double decay_fraction = 0.2;
  WsdShape wsd_shape = WsdShape::kMinusSqrt;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("decay", self.decay, "Course of the learning rate after the warm-up.");
    visit("lr", self.lr, "Highest learning rate.", Range{0, 100});
    visit("min_lr", self.min_lr, "Learning rate at the end.", Range{0, 100});
    visit("warmup_steps", self.warmup_steps, "Steps of linear warm-up. 0: warmup_fraction of all steps.", Range{0, 1e12}, Unit{"steps"});
    visit("warmup_fraction", self.warmup_fraction, "Part of all steps that warms up, when warmup_steps is 0.", Range{0, 1});
    visit("decay_steps", self.decay_steps, "wsd: steps of the final decay. 0: decay_fraction of all steps.", Range{0, 1e12}, Unit{"steps"});
    visit("decay_fraction", self.decay_fraction, "wsd: part of all steps that decays, when decay_steps is 0.", Range{0, 1});
    visit("wsd_shape", self.wsd_shape, "wsd: shape of the final decay.");
  }
  void check(std::vector<Problem>& out) const {
    if (min_lr > lr) out.push_back({"min_lr", "is above lr"});
  }
};

double learning_rate(const ScheduleConfig&, int64_t step, int64_t total_steps);  // step >= 1
int64_t warmup_steps(const ScheduleConfig&, int64_t total_steps);

}  // namespace weft::optim
