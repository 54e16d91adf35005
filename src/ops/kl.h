// KL divergence of a student's distribution from a teacher's, token by token, over logits of one vocabulary (distillation).
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"

namespace weft::ops {

// loss[t] = sum_v p_tv (log p_tv - log q_tv), p = softmax(teacher / temperature), q = softmax(student / temperature). Not scaled by
// temperature^2. student, teacher [T, V] of one dtype, contiguous; only the student gets a gradient. Returns [T] fp32 (fp64 for fp64).
at::Tensor kl_divergence(const at::Tensor& student, const at::Tensor& teacher, double temperature, const Policy&);

}  // namespace weft::ops
