// Grouped-query attention with rotary positions; head counts, window and QK-norm are settings.
#pragma once
#include "base/config.h"
#include "nn/layer_info.h"
#include "nn/linear.h"
#include "nn/rope.h"

namespace weft::nn {

struct GqaConfig {
  static constexpr const char* kKind = "attention";
  static constexpr const char* kModule = "attn";
  int num_heads = 8, num_kv_heads = 0, head_dim = 0, window = 0;
  bool qk_norm = false, rope = true;
  double rope_base = 10000;
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("num_heads", self.num_heads, "Query heads.", Range{1, 1024});
    visit("num_kv_heads", self.num_kv_heads, "Key and value heads. 0: as many as query heads.", Range{0, 1024});
    visit("head_dim", self.head_dim, "Channels of one head. 0: model_dim / num_heads.", Range{0, 1024});
    visit("window", self.window, "Tokens a query sees, itself included. 0: all before it.", Range{0, 1 << 30}, Unit{"tokens"});
    visit("qk_norm", self.qk_norm, "RMSNorm of each head's queries and keys.");
    visit("rope", self.rope, "Rotary positions.");
    visit("rope_base", self.rope_base, "Base of the rotary angles.", Range{1, 1e12});
  }
  void check(std::vector<Problem>& out) const {
    if (num_kv_heads > 0 && num_heads % num_kv_heads != 0)
      out.push_back({"num_kv_heads", "does not divide num_heads " + std::to_string(num_heads)});
    if (head_dim % 2 != 0 && rope) out.push_back({"head_dim", "is odd: rotary positions turn pairs of channels"});
  }
};

// Parameters qkv [(H + 2G) d, D] in segments q | k | v, out [D, H d]; with qk_norm q_norm [d], k_norm [d].
// States: k and v, [G, d] a token.
class Gqa final : public Module {
 public:
  Gqa(const GqaConfig&, const LayerInfo&);
  Boundary boundary() const override { return {Boundary::kWholeSequence, Boundary::kSum}; }
  std::vector<StateSpec> states() const override;

 protected:
  Flow forward(Flow, const CtxPtr&) override;

 private:
  int head_dim_, q_per_kv_, window_;
  double norm_eps_, rope_base_;  // rope_base 0: no rotary positions
  Rope rope_;
  Linear& qkv_;
  ops::Weight *q_norm_ = nullptr, *k_norm_ = nullptr;
  Linear& out_;
};

}  // namespace weft::nn
