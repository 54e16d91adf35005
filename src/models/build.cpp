#include "ops/aten.h"

#include "models/build.h"

#include <cmath>

#include "base/error.h"
#include "base/text.h"
#include "pattern/pattern.h"

namespace weft::models {

using namespace nn;

namespace {

struct GemmCollector {  // what each branch multiplies by, for one token
  const ModelConfig& model;
  std::vector<GemmShape> out;

  void operator()(const GqaConfig& c) {
    const int64_t d = c.head_dim > 0 ? c.head_dim : model.model_dim / c.num_heads, g = c.num_kv_heads > 0 ? c.num_kv_heads : c.num_heads;
    out.push_back({(c.num_heads + 2 * g) * d, model.model_dim, 1});
    out.push_back({model.model_dim, c.num_heads * d, 1});
  }
  void operator()(const Mamba2Config& c) {
    const int64_t h = c.heads(model.model_dim), inner = h * c.head_dim;
    out.push_back({2 * inner + 2 * c.num_groups * c.state_dim + h, model.model_dim, 1});
    out.push_back({model.model_dim, inner, 1});
  }
  void mlp(int64_t width, Activation a, double count) {
    out.push_back({gated(a) ? 2 * width : width, model.model_dim, count});
    out.push_back({model.model_dim, width, count});
  }
  void operator()(const MlpConfig& c) { mlp(c.width(model.model_dim), c.activation, 1); }
  void operator()(const MoeConfig& c) {
    out.push_back({c.num_experts, model.model_dim, 1});
    mlp(c.width(model.model_dim), c.activation, c.top_k);
    if (c.shared_ffn_dim > 0) mlp(c.shared_ffn_dim, c.activation, 1);
  }
};

struct SequenceFlops {  // forward FLOPs of one token that no weight is part of
  const ModelConfig& model;
  double seq_len;

  double operator()(const GqaConfig& c) const {
    const double d = c.head_dim > 0 ? c.head_dim : model.model_dim / c.num_heads;
    const double keys = c.window > 0 ? std::min<double>(c.window, seq_len / 2) : seq_len / 2;  // causal: half on average
    return 4 * keys * c.num_heads * d;
  }
  double operator()(const Mamba2Config& c) const {  // state update and read: 2 x 2 P N a head
    return 4.0 * c.heads(model.model_dim) * c.head_dim * c.state_dim;
  }
  double operator()(const MlpConfig&) const { return 0; }
  double operator()(const MoeConfig&) const { return 0; }
};

}  // namespace

std::vector<BranchConfig> branches(const ModelConfig& config) {
  pattern::Alphabet alphabet;
  alphabet.letters.clear();
  for (const auto& [letter, _] : config.symbols) alphabet.letters += letter;
  pattern::Pattern p = pattern::parse(config.pattern, alphabet);
  if (p.mtp_depths > 0) throw ConfigError("model.pattern: got '" + config.pattern + "' with prediction depths, want none: '/' is read but not built yet");
  if (config.num_layers > 0) p = pattern::tile(p, config.num_layers);
  const std::string layers = p.layers();
  if (layers.empty()) throw ConfigError("model.pattern: got no layers, want at least one letter");
  std::vector<BranchConfig> out;
  for (size_t i = 0; i < layers.size(); ++i) {
    BranchConfig branch = config.symbols.at(layers[i]);
    for (const auto& [glob, settings] : config.overrides)
      if (glob_match(glob, "layers." + std::to_string(i), '.')) branch = settings;
    out.push_back(std::move(branch));
  }
  return out;
}

std::unique_ptr<Decoder> build(const ModelConfig& config) {
  if (config.vocab_size <= 0) throw ConfigError("model.vocab_size: got 0, want the tokenizer's size: it is filled in from the data");
  auto model = std::make_unique<Decoder>(config, branches(config));
  choose_precision(*model, config.precision);
  return model;
}

std::vector<GemmShape> gemm_shapes(const ModelConfig& config) {
  GemmCollector c{config, {}};
  for (const BranchConfig& b : branches(config)) std::visit(c, b);
  if (config.ngram.rows > 0) c.out.push_back({config.model_dim, int64_t{config.ngram.tables()} * config.ngram.dim, 1});
  if (config.structure.dim > 0) c.out.push_back({config.model_dim, config.structure.dim, 1});
  c.out.push_back({config.vocab_size, config.model_dim, 1});
  return c.out;
}

double flops_per_token(const ModelConfig& config, int64_t seq_len) {
  double forward = 0;
  for (const GemmShape& g : gemm_shapes(config)) forward += 2.0 * static_cast<double>(g.n) * static_cast<double>(g.k) * g.count;
  const SequenceFlops of{config, static_cast<double>(seq_len)};
  for (const BranchConfig& b : branches(config)) forward += std::visit(of, b);
  return 3 * forward;
}

}  // namespace weft::models
