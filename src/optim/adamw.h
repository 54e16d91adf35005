// AdamW (Loshchilov and Hutter 2019) and Adam with L2 (Kingma and Ba 2015) over a gradient arena.
//
// The parameters move into flat buffers that lie as the arena's gradients do, so that an update is a few long runs and not one
// call a tensor: fp32 parameters are views of the masters, others of a buffer of their own dtype beside fp32 masters.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "base/config.h"
#include "dist/grad_arena.h"
#include "ops/policy.h"

namespace weft::optim {

enum class Kind : uint8_t { kAdamW, kAdam };
constexpr std::array<const char*, 2> names(Kind) { return {"adamw", "adam"}; }

struct OptimizerConfig {
  Kind kind = Kind::kAdamW;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1, clip_norm = 1;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("kind", self.kind, "adamw: decay apart from the gradient. adam: decay added to the gradient.");
    visit("beta1", self.beta1, "Decay of the gradient's mean.", Range{0, 0.999999});
    visit("beta2", self.beta2, "Decay of the gradient's mean square.", Range{0, 0.9999999});
    visit("eps", self.eps, "Added to the root of the mean square.", Range{0, 1});
    visit("weight_decay", self.weight_decay, "Of matrices; norms, biases and other one-dimensional parameters have none.", Range{0, 10});
    visit("clip_norm", self.clip_norm, "Largest global gradient norm; larger ones are scaled down to it. 0: no clipping.", Range{0, 1e9});
  }
};

class AdamW {
 public:
  // `decays` says of each weight whether weight decay applies. Moves every value of the arena's weights into the flat buffers
  // (Weight::version goes up). The arena outlives this.
  AdamW(const OptimizerConfig&, GradArena&, const std::function<bool(const ops::Weight&)>& decays, ops::Policy);

  // One update from the arena's gradients times grad_scale ([1] fp32 on the device); writes nothing when `skip` ([1] int32) is
  // not 0. `t` counts updates from 1.
  void step(double lr, int64_t t, const at::Tensor& grad_scale, const at::Tensor& skip);

  // Every state tensor of a weight, in its shape: kind is "master" (not for fp32 weights), "exp_avg" or "exp_avg_sq".
  void visit_state(const std::function<void(const char* kind, const ops::Weight&, const at::Tensor&)>&) const;
  // After weights or masters were written from outside (a load): rounds weights from the masters.
  void weights_from_masters();
  int64_t state_bytes() const;

 private:
  struct Run { int64_t offset, numel; at::ScalarType dtype; bool decay; };  // neighbours that are updated alike
  OptimizerConfig config_;
  GradArena& arena_;
  ops::Policy policy_;
  at::Tensor master_, low_, exp_avg_, exp_avg_sq_;  // low_: values that are not fp32; undefined when there are none
  std::vector<Run> runs_;
};

}  // namespace weft::optim
