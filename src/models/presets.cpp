#include "ops/aten.h"

#include "base/error.h"
#include "base/text.h"
#include "models/build.h"

namespace weft::models {

using namespace nn;

namespace {

// GPT-2 small in shape: 12 attention and 12 MLP branches of width 768, 50,304 words, tied. RMSNorm and rotary positions
// stand where the original has LayerNorm, biases and learned positions: the GEMMs are the same.
ModelConfig gpt2_124m() {
  ModelConfig c;
  c.pattern = "*-", c.num_layers = 24, c.model_dim = 768, c.vocab_size = 50304, c.tie_embeddings = true;
  GqaConfig attention;
  attention.num_heads = 12;
  MlpConfig mlp;
  mlp.ffn_dim = 3072, mlp.activation = Activation::kGeluTanh;
  c.symbols['*'] = attention, c.symbols['-'] = mlp;
  return c;
}

// The demo's model: every branch kind, small enough to learn its corpus on two cores in a minute and a half.
ModelConfig demo() {
  ModelConfig c;
  c.pattern = "M-M*-ME*-", c.model_dim = 256, c.tie_embeddings = true;
  GqaConfig attention;
  attention.num_heads = 4, attention.num_kv_heads = 2, attention.qk_norm = true;
  Mamba2Config mamba;
  mamba.state_dim = 32, mamba.head_dim = 32, mamba.num_groups = 1;
  MlpConfig mlp;
  MoeConfig moe;
  moe.num_experts = 8, moe.top_k = 2, moe.ffn_dim = 256, moe.shared_ffn_dim = 256;
  c.symbols['*'] = attention, c.symbols['M'] = mamba, c.symbols['-'] = mlp, c.symbols['E'] = moe;
  return c;
}

struct Preset {
  const char* name;
  ModelConfig (*make)();
};
constexpr Preset kPresets[] = {{"demo", demo}, {"gpt2-124m", gpt2_124m}};

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& p : kPresets) names.emplace_back(p.name);
  return names;
}

ModelConfig preset(const std::string& name) {
  for (const Preset& p : kPresets)
    if (name == p.name) return p.make();
  throw ConfigError("preset: got '" + name + "', want one of: " + join(preset_names(), ", "));
}

}  // namespace weft::models
