// Dense feed-forward branch: down(act(up(x))); gated kinds have up = [gate | up].
#pragma once
#include <array>

#include "base/config.h"
#include "nn/layer_info.h"
#include "nn/linear.h"

namespace weft::nn {

enum class Activation : uint8_t { kSwiglu, kGelu, kGeluTanh, kRelu2 };
constexpr std::array<const char*, 4> names(Activation) { return {"swiglu", "gelu", "gelu_tanh", "relu2"}; }
constexpr bool gated(Activation a) { return a == Activation::kSwiglu; }
// [T, F or 2F] -> [T, F], each row times its weight where there are any.
at::Tensor activate(Activation, const at::Tensor& x, const CtxPtr&, const at::Tensor& weights_T = {});

struct MlpConfig {
  static constexpr const char* kKind = "mlp";
  static constexpr const char* kModule = "mlp";
  int ffn_dim = 0;
  Activation activation = Activation::kSwiglu;
  bool bias = false;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("ffn_dim", self.ffn_dim, "Hidden size. 0: 4 x model_dim, or 8/3 x model_dim rounded up to 64 where gated.", Range{0, 1 << 22});
    visit("activation", self.activation, "Between the two projections.");
    visit("bias", self.bias, "The projections have biases.");
  }
  int width(int model_dim) const;
};

// Parameters fc1 [F or 2F, D], fc2 [D, F].
class Mlp final : public Module {
 public:
  Mlp(const MlpConfig&, const LayerInfo&);
  Boundary boundary() const override { return {Boundary::kOwnTokens, Boundary::kSum}; }

 protected:
  Flow forward(Flow, const CtxPtr&) override;

 private:
  Activation activation_;
  Linear &fc1_, &fc2_;
};

}  // namespace weft::nn
