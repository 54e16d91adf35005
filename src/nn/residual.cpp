#include "ops/aten.h"

#include "nn/residual.h"

namespace weft::nn {

Residual::Residual(const BranchConfig& config, const LayerInfo& layer) : norm_(child("norm", std::make_unique<Norm>(layer.model_dim, layer.norm_eps))) {
  std::visit([&](const auto& c) { branch_ = &child(std::decay_t<decltype(c)>::kModule, make_branch(c, layer)); }, config);
}

Flow Residual::forward(Flow f, const CtxPtr& ctx) {
  auto [sum_TD, normed_TD] = norm_.add_and_norm(f.x_TD, f.pending_TD, ctx);
  f.x_TD = std::move(normed_TD);
  f.pending_TD = at::Tensor();
  f = (*branch_)(std::move(f), ctx);
  f.pending_TD = std::exchange(f.x_TD, std::move(sum_TD));
  return f;
}

}  // namespace weft::nn
