// From settings to a module tree: the pattern spelled out, letters looked up, overrides laid over.
#pragma once
#include <memory>

#include "nn/decoder.h"

namespace weft::models {

// The branches of `config`, one a layer. ConfigError names an unknown letter and those that are bound.
std::vector<nn::BranchConfig> branches(const nn::ModelConfig&);
std::unique_ptr<nn::Decoder> build(const nn::ModelConfig&);  // on the meta device

// Named configurations. ConfigError with the nearest name.
nn::ModelConfig preset(const std::string& name);
std::vector<std::string> preset_names();

// FLOPs of the GEMMs in one token's forward and backward, without recompute: 6 x parameters met + attention's share at `seq_len`.
double flops_per_token(const nn::ModelConfig&, int64_t seq_len);
struct GemmShape { int64_t n, k; double count; };        // y[T, n] = x[T, k] W^T, `count` of them a token (top_k for experts)
std::vector<GemmShape> gemm_shapes(const nn::ModelConfig&);

}  // namespace weft::models
