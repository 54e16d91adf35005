// Mamba-2 mixer (Dao and Gu 2024): in_proj -> [z | x | B | C | dt], causal conv and SiLU over x|B|C, the SSD recurrence per
// head, a gated group-wise RMSNorm, out_proj.
#pragma once
#include "base/config.h"
#include "nn/layer_info.h"
#include "nn/linear.h"

namespace weft::nn {

struct Mamba2Config {
  static constexpr const char* kKind = "mamba2";
  static constexpr const char* kModule = "mamba2";
  int state_dim = 128, head_dim = 64, num_groups = 8, num_heads = 0, conv_width = 4;
  double norm_eps = 1e-5;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("state_dim", self.state_dim, "N: size of one head's state a channel.", Range{1, 1024});
    visit("head_dim", self.head_dim, "P: channels of one head.", Range{1, 1024});
    visit("num_groups", self.num_groups, "G: heads share B and C within a group.", Range{1, 1024});
    visit("num_heads", self.num_heads, "H. 0: 2 x model_dim / head_dim.", Range{0, 65536});
    visit("conv_width", self.conv_width, "Taps of the causal convolution.", Range{2, 4});
    visit("norm_eps", self.norm_eps, "Epsilon of the gated norm.", Range{0, 1});
  }
  int heads(int model_dim) const { return num_heads > 0 ? num_heads : 2 * model_dim / head_dim; }
};

// Parameters in_proj [2HP + 2GN + H, D], conv.weight [HP + 2GN, W], conv.bias, A_log [H], dt_bias [H], D [H], norm.weight [HP],
// out_proj [D, HP]. States: the last W - 1 columns of x|B|C, and S [H, P, N] fp32.
class Mamba2 final : public Module {
 public:
  Mamba2(const Mamba2Config&, const LayerInfo&);
  Boundary boundary() const override { return {Boundary::kWholeSequence, Boundary::kSum}; }
  std::vector<StateSpec> states() const override;

 protected:
  Flow forward(Flow, const CtxPtr&) override;

 private:
  int head_dim_, state_dim_, inner_per_group_;  // P, N, HP / G: what a cut over heads leaves as it is
  double norm_eps_;
  Linear& in_proj_;
  ops::Weight &conv_weight_, &conv_bias_, &A_log_, &dt_bias_, &D_, &norm_weight_;
  Linear& out_proj_;
};

}  // namespace weft::nn
