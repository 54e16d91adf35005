#include "optim/schedule.h"

#include <algorithm>
#include <cmath>

namespace weft::optim {
namespace {

constexpr double kPi = 3.14159265358979323846;

int64_t part_of(int64_t steps, double fraction, int64_t total) {
  return steps > 0 ? steps : static_cast<int64_t>(std::llround(fraction * static_cast<double>(total)));
}

}  // namespace

int64_t warmup_steps(const ScheduleConfig& c, int64_t total) { return std::min(total, part_of(c.warmup_steps, c.warmup_fraction, total)); }

double learning_rate(const ScheduleConfig& c, int64_t step, int64_t total) {
  const int64_t warmup = warmup_steps(c, total);
  const double s = static_cast<double>(step), span = c.lr - c.min_lr;
  if (step <= warmup) return c.lr * s / static_cast<double>(warmup);
  if (c.decay == Decay::kConstant) return c.lr;
  if (c.decay == Decay::kInvSqrt) return std::max(c.min_lr, c.lr * std::sqrt(static_cast<double>(std::max<int64_t>(warmup, 1)) / s));
  if (step >= total) return c.min_lr;
  double coefficient = 1;
  if (c.decay == Decay::kWsd) {
    const int64_t decay = std::min(total - warmup, part_of(c.decay_steps, c.decay_fraction, total)), start = total - decay;
    if (step <= start) return c.lr;
    const double r = (s - static_cast<double>(start)) / static_cast<double>(decay);
    switch (c.wsd_shape) {
      case WsdShape::kLinear: coefficient = 1 - r; break;
      case WsdShape::kCosine: coefficient = 0.5 * (std::cos(kPi * r) + 1); break;
      case WsdShape::kExponential: coefficient = 2 * std::pow(0.5, r) - 1; break;
      case WsdShape::kMinusSqrt: coefficient = 1 - std::sqrt(r); break;
    }
  } else {
    const double r = (s - static_cast<double>(warmup)) / static_cast<double>(total - warmup);
    coefficient = c.decay == Decay::kLinear ? 1 - r : 0.5 * (std::cos(kPi * r) + 1);
  }
  return c.min_lr + coefficient * span;
}

}  // namespace weft::optim
