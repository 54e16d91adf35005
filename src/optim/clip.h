// The global gradient norm, its clip factor, and who is to blame when it is not finite.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

#include "dist/grad_arena.h"
#include "ops/policy.h"

namespace weft::optim {

struct Clip {
  at::Tensor norm;        // [1] fp64: of gradient * unscale, before clipping
  at::Tensor grad_scale;  // [1] fp32: unscale * min(1, max_norm / (norm + 1e-6)); 0 when the norm is not finite
  at::Tensor skip;        // [1] int32: 1 when the norm is not finite
};

// Everything stays on the device. `unscale` is what the gradients are still to be multiplied by (token mode: 1 / tokens).
// `shards` are the ranks among which the arena's gradients are split; a group of one where every rank has all.
Clip clip(const GradArena&, double unscale, double max_norm, Comm& shards, const ops::Policy&);

// The first weight, in the order of backward, whose gradient has an inf or nan, with how many: "layers.3.mlp.up (12 of 4096
// elements)". Empty when there is none. Reads the device.
std::string first_non_finite(const GradArena&);

}  // namespace weft::optim
