// The functions that hold the rows, one an op. Sources of cases/ only.
#pragma once
#include "ops/cases/case.h"

namespace weft::ops::cases {

// Each row once for fp32 and once for bf16 with its own absolute bound: for ops whose small gradients are long sums of rounded products,
// where the plain expression's error in one element is luck.
std::vector<Case> by_dtype(const std::vector<Case>& rows, double atol_bf16);
constexpr double kHalfUnitBf16 = 4e-3;  // of the largest element: what adding 0.3 to it and taking it away loses (reliability.md 2.1)

std::vector<Case> activation_cases();
std::vector<Case> add_cases();
std::vector<Case> muon_cases();
std::vector<Case> qk_norm_cases();
std::vector<Case> adamw_cases();
std::vector<Case> dropout_cases();
std::vector<Case> grad_norm_cases();
std::vector<Case> layernorm_cases();
std::vector<Case> hadamard_cases();
std::vector<Case> kl_cases();
std::vector<Case> mhc_cases();
std::vector<Case> ngram_cases();
std::vector<Case> quantize_cases();
std::vector<Case> structure_cases();
std::vector<Case> sample_cases();
std::vector<Case> add_rmsnorm_cases();
std::vector<Case> bias_cases();
std::vector<Case> embedding_cases();
std::vector<Case> gated_rmsnorm_cases();
std::vector<Case> linear_cases();
std::vector<Case> linear_f8_cases();
std::vector<Case> model_shape_cases();
std::vector<Case> attention_cases();
std::vector<Case> conv1d_cases();
std::vector<Case> moe_cases();
std::vector<Case> qkv_cases();
std::vector<Case> linear_cross_entropy_cases();
std::vector<Case> rmsnorm_cases();
std::vector<Case> rope_cases();
std::vector<Case> ssd_cases();
std::vector<Case> sparse_cases();
std::vector<Case> mamba3_cases();
std::vector<Case> recurrent_cases();

}  // namespace weft::ops::cases
