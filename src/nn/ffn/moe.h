// Mixture of experts: each token goes to top_k experts of num_experts, and to the shared expert where there is one.
#pragma once
#include "nn/ffn/mlp.h"

namespace weft::nn {

enum class RouterScore : uint8_t { kSoftmaxPost, kSoftmaxPre, kSigmoid, kSqrtSoftplus };
constexpr std::array<const char*, 4> names(RouterScore) { return {"softmax", "softmax_pre", "sigmoid", "sqrtsoftplus"}; }

struct MoeConfig {
  static constexpr const char* kKind = "moe";
  static constexpr const char* kModule = "moe";
  int num_experts = 8, top_k = 2, ffn_dim = 0, shared_ffn_dim = 0;
  Activation activation = Activation::kSwiglu;
  RouterScore score = RouterScore::kSoftmaxPost;
  int num_groups = 1, top_groups = 1;
  double scaling = 1, aux_loss = 0.01, z_loss = 0, bias_rate = 0;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("num_experts", self.num_experts, "Routed experts in one layer.", Range{1, 4096});
    visit("top_k", self.top_k, "Experts that each token goes to.", Range{1, 64});
    visit("ffn_dim", self.ffn_dim, "Hidden size of one expert. 0: that of a dense MLP divided by top_k, rounded up to 32.", Range{0, 1 << 20});
    visit("shared_ffn_dim", self.shared_ffn_dim, "Hidden size of the shared expert. 0: none.", Range{0, 1 << 20});
    visit("activation", self.activation, "Between an expert's two projections.");
    visit("score", self.score, "How logits become weights: softmax over the chosen, softmax_pre over all, sigmoid, sqrtsoftplus.");
    visit("num_groups", self.num_groups, "Groups of experts for group-limited routing. 1: no groups.", Range{1, 1024});
    visit("top_groups", self.top_groups, "Groups a token may choose from.", Range{1, 1024});
    visit("scaling", self.scaling, "Factor on the weights (sigmoid and sqrtsoftplus).", Range{0, 1000});
    visit("aux_loss", self.aux_loss, "Coefficient of the load-balancing loss.", Range{0, 100});
    visit("z_loss", self.z_loss, "Coefficient of mean(logsumexp(logits)^2).", Range{0, 100});
    visit("bias_rate", self.bias_rate, "Step of the expert bias that balances load without a loss (sigmoid, sqrtsoftplus). 0: none.", Range{0, 1});
  }
  void check(std::vector<Problem>& out) const;
  int width(int model_dim) const;
};

// Parameters router [E, D] fp32, experts.fc1 [E, F or 2F, D], experts.fc2 [E, D, F], shared.fc1, shared.fc2.
// Buffer: expert_bias [E] fp32. Figures: "PATH.load" (tokens an expert).
class Moe final : public Module {
 public:
  Moe(const MoeConfig&, const LayerInfo&);
  Boundary boundary() const override { return {Boundary::kOwnTokens, Boundary::kTokens}; }
  void after_step(const StepStats&) override;

 protected:
  Flow forward(Flow, const CtxPtr&) override;

 private:
  MoeConfig config_;
  ops::Weight& router_;
  at::Tensor* bias_ = nullptr;
  ops::Weight &fc1_, &fc2_;
  Mlp* shared_ = nullptr;
};

}  // namespace weft::nn
