#include "ops/aten.h"

#include "ops/cases/rows.h"

namespace weft::ops::cases {

std::vector<Case> by_dtype(const std::vector<Case>& rows, double atol_bf16) {
  std::vector<Case> all;
  for (const Case& row : rows) {
    Case f32 = row, bf16 = row;
    f32.dtypes = {at::kFloat}, bf16.dtypes = {at::kBFloat16};
    bf16.row += " bf16", bf16.grad = false, bf16.grad_why_not.clear(), bf16.atol = atol_bf16;
    all.push_back(f32), all.push_back(bf16);
  }
  return all;
}

std::vector<Case> table() {
  std::vector<Case> all;
  for (auto rows : {
           linear_cases,
           linear_f8_cases,
           model_shape_cases,
           bias_cases,
           embedding_cases,
           rmsnorm_cases,
           add_cases,
           add_rmsnorm_cases,
           gated_rmsnorm_cases,
           activation_cases,
           rope_cases,
           attention_cases,
           conv1d_cases,
           ssd_cases,
           sparse_cases,
           mamba3_cases,
           recurrent_cases,
           moe_cases,
           qkv_cases,
           qk_norm_cases,
           linear_cross_entropy_cases,
           layernorm_cases,
           dropout_cases,
           adamw_cases,
           muon_cases,
           grad_norm_cases,
           sample_cases,
           ngram_cases,
           structure_cases,
           hadamard_cases,
           quantize_cases,
           kl_cases,
           mhc_cases,
       })
    for (Case& c : rows()) all.push_back(std::move(c));
  return all;
}

}  // namespace weft::ops::cases
