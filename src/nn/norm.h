// RMSNorm over the model dim, with the residual add that comes before it in one pass.
#pragma once
#include "nn/module.h"

namespace weft::nn {

// Parameter "weight", [D].
class Norm final : public Module {
 public:
  Norm(int64_t dim, double eps);
  // x + pending (x itself when nothing is pending), and its norm.
  struct Added { at::Tensor sum_TD, normed_TD; };
  Added add_and_norm(const at::Tensor& x_TD, const at::Tensor& pending_TD, const CtxPtr&);

 protected:
  Flow forward(Flow, const CtxPtr&) override;  // x becomes norm(x + pending); nothing is pending after

 private:
  ops::Weight& weight_;
  double eps_;
};

}  // namespace weft::nn
