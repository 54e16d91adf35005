#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace weft::optim {

// Twenty points of each schedule against the equation written out: 1000 steps, 100 of warm-up, peak 0.8, end 0.08.
TEST(Schedule, TablesOfTwentyPoints) {
  ScheduleConfig c{.lr = 0.8, .min_lr = 0.08, .warmup_steps = 100, .decay_steps = 200};
  const double pi = std::acos(-1.0);
  const auto check = [&](const char* what, auto want) {
    for (int64_t s = 50; s <= 1000; s += 50) EXPECT_DOUBLE_EQ(learning_rate(c, s, 1000), s <= 100 ? 0.8 * static_cast<double>(s) / 100 : want(static_cast<double>(s))) << what << s;
  };
  c.decay = Decay::kConstant;
  check("constant ", [](double) { return 0.8; });
  c.decay = Decay::kLinear;
  check("linear ", [](double s) { return 0.08 + (1 - (s - 100) / 900) * (0.8 - 0.08); });
  c.decay = Decay::kCosine;
  check("cosine ", [&](double s) { return 0.08 + 0.5 * (std::cos(pi * ((s - 100) / 900)) + 1) * (0.8 - 0.08); });
  c.decay = Decay::kInvSqrt;
  check("inv_sqrt ", [](double s) { return std::max(0.08, 0.8 * std::sqrt(100 / s)); });
  c.decay = Decay::kWsd;
  const auto wsd = [&](WsdShape shape, auto f) {
    c.wsd_shape = shape;
    check("wsd ", [&](double s) { return s <= 800 ? 0.8 : 0.08 + f((s - 800) / 200) * (0.8 - 0.08); });
  };
  wsd(WsdShape::kLinear, [](double r) { return 1 - r; });
  wsd(WsdShape::kCosine, [&](double r) { return r == 1 ? 0 : 0.5 * (std::cos(pi * r) + 1); });
  wsd(WsdShape::kExponential, [](double r) { return 2 * std::pow(0.5, r) - 1; });
  wsd(WsdShape::kMinusSqrt, [](double r) { return 1 - std::sqrt(r); });
}

TEST(Schedule, TheFirstStepMovesAndTheEndHolds) {
  for (Decay d : {Decay::kConstant, Decay::kLinear, Decay::kCosine, Decay::kInvSqrt, Decay::kWsd}) {
    ScheduleConfig c{.decay = d, .lr = 1, .min_lr = 0.1};
    EXPECT_GT(learning_rate(c, 1, 100), 0);
    for (int64_t s = 1; s < 300; ++s) {
      EXPECT_LE(learning_rate(c, s, 100), 1);
      EXPECT_GE(learning_rate(c, s, 100), s <= warmup_steps(c, 100) ? 0 : 0.1);
    }
    c.warmup_fraction = 0;
    EXPECT_GE(learning_rate(c, 1, 1), 0.1) << "a run of one step";
  }
}

}  // namespace weft::optim
