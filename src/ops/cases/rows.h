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
std::vector<Case> moe_cases();
std::vector<Case> rmsnorm_cases();

}  // namespace weft::ops::cases
