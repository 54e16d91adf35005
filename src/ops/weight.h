// A parameter's local piece and all that belongs to it.
//
// Never an autograd leaf: an op's backward adds dW to `main_grad` itself and then calls `done()`. So gradients accumulate in
// fp32 whatever the compute dtype, reduction starts when dW is really there, and a pipeline may put dW off (WgradQueue).
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

namespace weft::ops {

struct Weight;

// dist/ implements it: counts the uses of this step; after the last it reduces the bucket.
struct GradSink {
  virtual ~GradSink() = default;
  virtual void used(Weight&) = 0;
};

struct Weight {
  std::string name;      // global and stable: "layers.17.mla.q_down"; it is the checkpoint's name
  at::Tensor value;      // in compute dtype; undefined while sharded away
  at::Tensor main_grad;  // fp32 (fp64 in parity runs), a view into a GradArena; the only accumulator
  uint64_t version = 0;  // of the value: packed and quantised copies compare it before use
  bool trainable = true;
  GradSink* sink = nullptr;

  bool wants_grad() const { return trainable && main_grad.defined(); }
  // main_grad += dw (any float dtype, same number of elements), then done(). No-op for a frozen weight.
  void accumulate(const at::Tensor& dw);
  void done() { if (sink != nullptr) sink->used(*this); }
};

}  // namespace weft::ops
