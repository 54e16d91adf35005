// x + branch(norm(x)): every model is a list of these.
//
// The branch's output is left pending: the next residual's norm adds and normalises in one pass.
#pragma once
#include "nn/branch.h"
#include "nn/norm.h"

namespace weft::nn {

class Residual final : public Module {
 public:
  Residual(const BranchConfig&, const LayerInfo&);  // one std::visit, no default case

 protected:
  Flow forward(Flow, const CtxPtr&) override;

 private:
  Norm& norm_;
  Module* branch_ = nullptr;
};

}  // namespace weft::nn
