// The activations and their derivatives on one fp32 number, for the CPU kernels of activation/ and glu/.
#pragma once
#include "kernels/activation/activation.h"
#include "kernels/cpu.h"

namespace weft::kernels {

struct ValueAndSlope {
  float value, slope;
};

template <Act kAct>
inline ValueAndSlope act_f32(float x) {
  if constexpr (kAct == Act::kGeluExact) {
    const Normal n = normal_f32(x);
    return {x * n.cdf, n.cdf + x * n.pdf};
  } else if constexpr (kAct == Act::kGeluTanh) {
    constexpr float kRoot = 0.79788456f, kCubic = 0.044715f;  // sqrt(2 / pi)
    const float t = tanh_f32(kRoot * (x + kCubic * x * x * x));
    return {0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * kRoot * (1.0f + 3.0f * kCubic * x * x)};
  } else if constexpr (kAct == Act::kQuickGelu) {
    const float s = sigmoid_f32(1.702f * x);
    return {x * s, s * (1.0f + 1.702f * x * (1.0f - s))};
  } else if constexpr (kAct == Act::kSilu) {
    const float s = sigmoid_f32(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
  } else if constexpr (kAct == Act::kRelu) {
    return {x < 0 ? 0.0f : x, x > 0 ? 1.0f : x * 0.0f};  // NaN stays NaN
  } else {
    const float v = x < 0 ? 0.0f : x;
    return {v * v, 2.0f * v};
  }
}

}  // namespace weft::kernels
