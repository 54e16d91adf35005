// y = x W^T (+ b): the one place where a module meets a GEMM, so precision is chosen here (parallel/precision).
#pragma once
#include "nn/module.h"
#include "ops/linear.h"
#include "ops/linear_f8.h"

namespace weft::nn {

struct LinearSpec {
  int64_t in, out;
  Split split = Split::kNone;          // kColumn cuts `out`, kRow cuts `in`
  std::vector<int64_t> segments = {};  // of `out`, such as {q, k, v}
  double init_std = 0.02;
  bool bias = false;
};

// Parameter: the module's own path, [out, in]; with a bias also "PATH.bias", [out].
class Linear final : public Module {
 public:
  explicit Linear(const LinearSpec&);
  ops::GemmRecipe recipe{};
  ops::Weight& weight() { return weight_; }
  ops::Weight* bias() { return bias_; }  // null: none
  int64_t out_features() const { return weight_.value.size(0); }  // of this rank's piece
  DType dtype() const;                                            // of the compute copy

 protected:
  Flow forward(Flow, const CtxPtr&) override;

 private:
  ops::Weight& weight_;
  ops::Weight* bias_ = nullptr;
  ops::WeightCopies copies_;
};

}  // namespace weft::nn
