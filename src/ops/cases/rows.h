// The functions that hold the rows, one an op. Sources of cases/ only.
#pragma once
#include "ops/cases/case.h"

namespace weft::ops::cases {

std::vector<Case> activation_cases();
std::vector<Case> add_rmsnorm_cases();
std::vector<Case> bias_cases();
std::vector<Case> embedding_cases();
std::vector<Case> gated_rmsnorm_cases();
std::vector<Case> linear_cases();
std::vector<Case> attention_cases();
std::vector<Case> conv1d_cases();
std::vector<Case> moe_cases();
std::vector<Case> qkv_cases();
std::vector<Case> linear_cross_entropy_cases();
std::vector<Case> rmsnorm_cases();
std::vector<Case> rope_cases();

}  // namespace weft::ops::cases
